import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import bitplanes
from penstock.errors import Corrupt

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 200))


def rows_of(seed, shape, spread):
    """Rows that differ by up to ``spread`` from the ones above: every width of a block occurs."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-spread, spread + 1, shape)
    steps *= rng.integers(0, 2, (*shape[:2], 1))
    return np.cumsum(steps, axis=1).astype(np.uint8)


def encode_natively(kernels, rows):
    room = len(rows) * bitplanes.max_encoded_bytes(rows[0].size)
    memory = np.full(room + 64, 77, np.uint8)
    sizes = np.zeros(len(rows), np.uint32)
    total = kernels.encode_bitplanes(rows, memory[:room], sizes)
    assert (memory[room:] == 77).all()
    assert total == sizes.sum()
    return memory[:total].copy(), sizes


def decode_natively(kernels, data, sizes, shape):
    memory = np.full(int(np.prod(shape)) + 256, 77, np.uint8)
    out = memory[128:-128].reshape(shape)
    done = kernels.decode_images(2, np.frombuffer(data, np.uint8), sizes, out)
    assert (memory[:128] == 77).all()
    assert (memory[-128:] == 77).all()
    return done, out


def test_worked_example_of_the_documentation():
    # Differences to the row above: 1, 2, 3 and 0, 0, -1; zigzag: 2, 4, 6, 0, 0, 1; three bits.
    image = np.array([[1, 2, 3], [1, 2, 2]], np.uint8)
    planes = [0b100000, 0b000101, 0b000110]
    expected = b"\x03" + b"".join(bytes([plane]) + bytes(7) for plane in planes)
    assert bitplanes.encode(image) == expected


def test_natively_the_worked_example_is_the_same(kernels):
    image = np.array([[[1, 2, 3], [1, 2, 2]]], np.uint8)
    assert encode_natively(kernels, image)[0].tobytes() == bitplanes.encode(image[0])


@settings(max_examples=80)
@given(st.integers(0, 2**32), SHAPES, st.sampled_from([0, 1, 3, 9, 40, 127]))
def test_every_level_writes_and_reads_the_same_bytes(kernels, seed, shape, spread):
    rows = rows_of(seed, shape, spread)
    data, sizes = encode_natively(kernels, rows)
    plain = [bitplanes.encode(image) for image in rows]
    assert data.tobytes() == b"".join(plain)
    assert sizes.tolist() == [len(part) for part in plain]
    done, out = decode_natively(kernels, data, sizes, shape)
    assert done == len(rows)
    assert np.array_equal(out, rows)
    alone = np.zeros_like(rows[0])
    bitplanes.decode(memoryview(plain[0]), alone)
    assert np.array_equal(alone, rows[0])


@settings(max_examples=150)
@given(st.binary(max_size=400), st.integers(1, 12), st.integers(1, 30))
def test_arbitrary_bytes_decode_as_in_plain_code_or_are_corrupt(kernels, data, rows, row_bytes):
    shape = (1, rows, row_bytes)
    done, out = decode_natively(kernels, data, np.array([len(data)], np.uint32), shape)
    plain = np.zeros(shape[1:], np.uint8)
    try:
        bitplanes.decode(memoryview(data), plain)
    except Corrupt:
        assert done == 0
    else:
        assert done == 1
        assert np.array_equal(out[0], plain)


@settings(max_examples=80)
@given(
    st.lists(st.integers(0, 8), min_size=3, max_size=3),
    st.binary(min_size=192, max_size=192),
    st.sampled_from([(2, 96), (3, 64), (6, 32), (64, 3), (1, 150)]),
)
def test_any_widths_and_planes_give_what_plain_code_gives(kernels, widths, planes, shape):
    data = bytes(widths) + planes[: 8 * sum(widths)]
    done, out = decode_natively(kernels, data, np.array([len(data)], np.uint32), (1, *shape))
    plain = np.zeros(shape, np.uint8)
    bitplanes.decode(memoryview(data), plain)
    assert done == 1
    assert np.array_equal(out[0], plain)


def test_noise_costs_one_byte_in_64_and_no_more():
    image = np.random.default_rng(0).integers(0, 256, (64, 192), np.uint8)
    assert len(bitplanes.encode(image)) == image.size * 65 // 64
    assert bitplanes.max_encoded_bytes(image.size) == image.size * 65 // 64
    assert bitplanes.max_encoded_bytes(1) == 65


def test_small_differences_take_their_bits():
    # Two rows of 64 values: the second is one above the first, zigzag 2, two bits of 64.
    image = np.zeros((2, 64), np.uint8)
    image[1] = 1
    assert bitplanes.encode(image) == bytes([0, 2]) + bytes(8) + b"\xff" * 8


@pytest.mark.parametrize("wrong", [b"", b"\x09" + bytes(72), b"\x01" + bytes(7), bytes(2)])
def test_widths_that_do_not_fit_are_corrupt(wrong):
    with pytest.raises(Corrupt, match="bit planes"):
        bitplanes.decode(memoryview(wrong), np.zeros((1, 3), np.uint8))
