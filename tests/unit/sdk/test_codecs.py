import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.codecs import CODECS, encode_smallest
from penstock.errors import Corrupt


@given(data=st.binary(max_size=5000), name=st.sampled_from(sorted(CODECS)))
def test_round_trip_is_exact(data, name):
    out = np.zeros(len(data), np.uint8)
    codec = CODECS[name]
    codec.decode_into(codec.encode(memoryview(data)), out)
    assert out.tobytes() == data


@given(data=st.binary(max_size=300), size=st.integers(0, 300), name=st.sampled_from(sorted(CODECS)))
def test_arbitrary_bytes_decode_exactly_or_are_corrupt(data, size, name):
    out = np.zeros(size, np.uint8)
    try:
        CODECS[name].decode_into(data, out)
    except Corrupt:
        return
    again = np.zeros(size, np.uint8)
    CODECS[name].decode_into(data, again)
    assert (out == again).all()


def test_a_bomb_is_refused_instead_of_growing():
    bomb = CODECS["lz4"].encode(memoryview(bytes(10_000_000)))
    with pytest.raises(Corrupt):
        CODECS["lz4"].decode_into(bomb, np.zeros(100, np.uint8))


def test_noise_travels_raw_and_flat_images_as_lz4():
    noise = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)
    assert encode_smallest(noise.data, ("lz4", "raw"))[0] == "raw"
    assert encode_smallest(np.zeros(100_000, np.uint8).data, ("lz4", "raw"))[0] == "lz4"
    assert encode_smallest(np.zeros(100_000, np.uint8).data, ("raw",))[0] == "raw"
