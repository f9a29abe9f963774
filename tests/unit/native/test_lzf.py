import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import native
from penstock.errors import Corrupt, Unsupported
from penstock.native import library

needs_kernels = pytest.mark.skipif(not native.available(), reason=native.describe())


def chunk_by_h5py(tmp_path, values):
    with h5py.File(tmp_path / "lzf.hdf5", "w") as file:
        data = file.create_dataset("x", data=values, chunks=values.shape, compression="lzf")
        mask, chunk = data.id.read_direct_chunk((0,))
    assert mask == 0, "h5py stored the chunk as it was"
    return chunk


def decoded(chunk, size):
    memory = np.full(size + 128, 77, np.uint8)
    try:
        native.lzf_decompress_into(chunk, memory[64:-64])
    finally:
        assert (memory[:64] == 77).all()
        assert (memory[-64:] == 77).all()
    return memory[64:-64]


@needs_kernels
@pytest.mark.parametrize("kind", ["zeros", "ramp", "text", "mixed"])
def test_what_h5py_packs_comes_back(tmp_path, kind):
    rng = np.random.default_rng(0)
    values = {
        "zeros": np.zeros(100_000, np.uint8),
        "ramp": (np.arange(70_000) // 50).astype(np.uint8),
        "text": np.frombuffer(b"penstock carries water to the turbine; " * 300, np.uint8),
        "mixed": np.where(rng.random(50_000) < 0.1, rng.integers(0, 256, 50_000), 7).astype(
            np.uint8
        ),
    }[kind]
    assert np.array_equal(decoded(chunk_by_h5py(tmp_path, values), values.size), values)


@needs_kernels
def test_a_worked_example():
    # Three literals; then 2 + 2 bytes from 3 back; then 7 + 1 + 2 bytes from 1 back.
    chunk = b"\x02abc" + bytes([2 << 5, 2]) + bytes([7 << 5, 1, 0])
    assert decoded(chunk, 17).tobytes() == b"abcabca" + b"a" * 10


@needs_kernels
@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (b"\x02ab", 3),  # a literal is missing
        (b"\x00a\x20", 4),  # the distance is missing
        (b"\x00a\xe0", 12),  # the length is missing
        (b"\x00a\x20\x01", 4),  # from before the start
        (b"\x00a\x20\x00", 3),  # more than there is room for
        (b"\x00a", 2),  # less than announced
    ],
)
def test_damaged_chunks_are_corrupt(chunk, size):
    with pytest.raises(Corrupt, match=rf"lzf chunk of {len(chunk)} bytes"):
        decoded(chunk, size)


@needs_kernels
@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_arbitrary_bytes_stay_inside(chunk, size):
    try:
        decoded(chunk, size)
    except Corrupt:
        return


def test_without_the_library_it_says_so(monkeypatch):
    monkeypatch.setattr(library, "_find", lambda: "it was not built")
    with pytest.raises(Unsupported, match="absent: it was not built"):
        native.lzf_decompress_into(b"\x00a", np.zeros(1, np.uint8))
