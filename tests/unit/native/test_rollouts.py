"""Segments of rollouts: each level, and NumPy alone, give the bytes of the format."""

import struct

import lz4.block
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import native
from penstock.native import compressors, library
from penstock.native.rollouts import (
    DISTANCES,
    ROWS,
    ROWS_IN,
    ROWS_OUT,
    RolloutCoder,
    RowCodec,
    table,
)


def coder_of(level):
    if level == "numpy":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "_find", lambda: "absent for this test")
            return RolloutCoder()
    try:
        return RolloutCoder(native.Kernels(level=level))
    except (OSError, ValueError):
        return None


CODERS = {
    level: coder for level in ("numpy", *native.LEVELS) if (coder := coder_of(level)) is not None
}
"""Those that this machine has."""


def lines_in(rows, codec, *, after=None, distances=(), effort=1):
    """One segment of ``[env, step, element]``, and one that follows it."""
    lines = table(ROWS_IN, 1 if after is None else 2)
    of = lines["of"]
    of["item"], of["codec"], of["follows"] = rows.itemsize, codec, np.arange(len(lines))
    of["envs"], of["steps"], of["elements"] = rows.shape
    of["distances"][:, : len(distances)] = distances
    lines["effort"], lines["base"] = effort, rows.ctypes.data
    lines["rows"] = [array.ctypes.data for array in (rows, after) if array is not None]
    for prefix in ("", "base_"):
        lines[f"{prefix}env_stride"], lines[f"{prefix}step_stride"] = rows.strides[:2]
    return lines


def lines_out(of, data, sizes, hashes, out, places):
    lines = table(ROWS_OUT, len(of))
    lines["of"], lines["data_bytes"], lines["hash"] = of, sizes, hashes
    lines["data"] = data.ctypes.data + np.cumsum(sizes) - sizes
    lines["out"], lines["env_stride"] = [a.ctypes.data for a in out], out[0].strides[0]
    lines["places"], lines["end_step"] = places.ctypes.data, of["steps"]
    return lines


def made(seed, shape, item, *, likeness):
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.integers(0, 2 ** int(rng.integers(1, 60)), shape), 1)
    rows *= rng.random(shape) < rng.choice([0.05, 0.5, 1])
    rows = rows.astype(f"u{item}")
    for element in range(2, shape[2]):
        near = rows[:, :, element - 2] + rng.integers(0, 2, shape[:2]).astype(rows.dtype)
        rows[:, :, element] = np.where(rng.random(shape[:2]) < likeness, near, rows[:, :, element])
    after = np.roll(rows, -1, 1)
    after[rng.random(shape[:2]) < 0.2] += 1
    return rows, after


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 40)),
    item=st.sampled_from([1, 2, 4, 8]),
    codec=st.sampled_from(list(RowCodec)),
    likeness=st.sampled_from([0, 0.5, 0.95, 1]),
    effort=st.sampled_from([1, 3]),
)
def test_all_implementations_write_equal_bytes_and_read_them(
    seed, shape, item, codec, likeness, effort
):
    rows, after = made(seed, shape, item, likeness=likeness)
    lines = lines_in(rows, codec, after=after, distances=(1, 2, 3), effort=effort)
    written = {level: coder.encode(lines) for level, coder in CODERS.items()}
    data, sizes, hashes = written["numpy"]
    for level, found in written.items():
        assert found[0].tobytes() == data.tobytes(), level
        assert found[1].tolist() == sizes.tolist()
        assert found[2].tolist() == hashes.tolist()
    assert hashes[0] == xxhash.xxh3_64_intdigest(data[: sizes[0]].tobytes())
    places = np.arange(shape[0])
    for level, coder in CODERS.items():
        out = np.zeros((2, *shape), rows.dtype)
        assert coder.decode(lines_out(lines["of"], data, sizes, hashes, out, places)) == 2
        assert out.tobytes() == rows.tobytes() + after.tobytes(), level


@pytest.mark.parametrize("level", CODERS)
def test_wanted_steps_of_wanted_environments_go_to_their_places(level):
    rows, after = made(1, (5, 20, 3), 4, likeness=0)
    lines = lines_in(rows, RowCodec.LZ4, after=after)
    coder = CODERS[level]
    data, sizes, hashes = coder.encode(lines)
    places = np.array([2, -1, 0, -1, 1])
    out = np.zeros((2, 3, 6, 3), np.uint32)
    out_lines = lines_out(lines["of"], data, sizes, hashes, out, places)
    out_lines["first_step"], out_lines["end_step"] = 7, 13
    # Of the first one nothing is wanted but what the second is rebuilt from.
    out_lines["out"][0] = 0
    assert coder.decode(out_lines) == 2
    assert not out[0].any()
    assert np.array_equal(out[1], after[[2, 4, 0], 7:13])


@pytest.mark.parametrize("level", CODERS)
def test_the_format_is_what_it_is_said_to_be(level):
    # Element 0 goes up by one each step, element 1 equals it, element 2 stays.
    rows = np.zeros((1, 16, 3), np.uint16)
    rows[0, :, 0] = rows[0, :, 1] = 500 + np.arange(16)
    rows[0, :, 2] = 7
    data, _, _ = CODERS[level].encode(lines_in(rows, RowCodec.LZ4, distances=(1,)))
    data = data.tobytes()
    head = bytes([0, 1, 0]) + np.array([500, 500, 7], "<u2").tobytes()
    # Bits of columns 1 to 15: kept of the three lines, then the same of the second.
    masks = bytes([0xFE, 0xFF, 0, 0, 0, 0, 0xFE, 0xFF])
    # 15 numbers, 2 each: 1 in zigzag order; no upper bytes.
    planes = [bytes([2]) * 15, bytes(15)]
    packed = [lz4.block.compress(plane, store_size=False) for plane in planes]
    assert len(packed[0]) == len(packed[1]) < 15
    expected = struct.pack("<BII", 1, 15, 1)
    streams = [(0, head), (0, masks), (1, packed[0]), (1, packed[1])]
    expected += b"".join(struct.pack("<BI", way, len(stream)) for way, stream in streams)
    expected += b"".join(stream for _, stream in streams)
    assert len(expected) < rows.nbytes + 1
    assert data == expected


@pytest.mark.parametrize("level", CODERS)
def test_a_segment_that_is_damaged_is_told_by_its_number(level):
    rows, after = made(3, (4, 30, 6), 4, likeness=0.5)
    coder = CODERS[level]
    lines = lines_in(rows, RowCodec.ZSTD, after=after, distances=(1, 2))
    data, sizes, hashes = coder.encode(lines)
    out, places = np.zeros((2, *rows.shape), rows.dtype), np.arange(4)
    for number in (0, 1):
        wrong = hashes.copy()
        wrong[number] ^= 1
        found = lines_out(lines["of"], data, sizes, wrong, out, places)
        assert coder.decode(found) == number


def test_another_codec_than_that_of_the_field_is_refused():
    rows, _ = made(3, (4, 30, 6), 4, likeness=1)
    lines = lines_in(rows, RowCodec.ZSTD, distances=(1, 2))
    out, places = np.zeros((1, *rows.shape), rows.dtype), np.arange(4)
    for coder in CODERS.values():
        data, sizes, hashes = coder.encode(lines)
        of = lines["of"].copy()
        of["codec"] = RowCodec.LZ4
        assert coder.decode(lines_out(of, data, sizes, hashes, out, places)) == 0


def test_tables_have_the_form_of_the_structures():
    assert (ROWS.itemsize, ROWS_IN.itemsize, ROWS_OUT.itemsize) == (96, 152, 160)
    assert DISTANCES == 6


def test_packages_without_their_functions_leave_it_to_numpy(monkeypatch, caplog):
    for absent in ("no_such_package", "json", "math"):
        assert compressors._load(absent, ("LZ4_compress_fast",)) is None
    assert "Rollouts are encoded and decoded by NumPy instead" in caplog.text
    monkeypatch.setattr(compressors, "lz4_address", lambda: 0)
    data = bytes(range(60)) * 9
    block = compressors.lz4_compress(data, 1)
    assert lz4.block.decompress(block, uncompressed_size=len(data)) == data
