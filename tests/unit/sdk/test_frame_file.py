from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from descriptors import open_below
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.codecs import IMAGE_CODECS, decode_images, encode_images
from penstock.errors import Conflict, Corrupt, InvalidInput, NotFound
from penstock.frame_file import (
    FrameFile,
    FrameFileWriter,
    FrameHeader,
    FrameSource,
    Piece,
    read_pieces,
    remove_unfinished,
)

ROWS, CAMERAS, HEIGHT, WIDTH = 9, 2, 5, 7
SOURCE = FrameSource("/data/a.hdf5", 1234, 5678, "00ff")


@pytest.fixture(params=["native", "plain"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reading by the native library, where there is one, and by Python."""
    if request.param == "plain":
        monkeypatch.setattr("penstock.native.xxh3_address", lambda: 0)
    return request.param


def _frames(rows: int = ROWS, seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    # Half noise, half flat, so that every codec has something to do.
    frames = rng.integers(0, 256, (rows, CAMERAS, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, 1] = np.arange(rows, dtype=np.uint8)[:, None, None, None]
    return frames


def _header(codec: str = "raw", rows: int = ROWS) -> FrameHeader:
    return FrameHeader(SOURCE, HEIGHT, WIDTH, ("left", "wrist"), codec, rows)


def _write(path: Path, codec: str = "raw", frames: Any = None) -> Path:
    frames = _frames() if frames is None else frames
    with FrameFileWriter(path, _header(codec, len(frames))) as writer:
        for start in range(0, len(frames), 4):
            part = frames[start : start + 4]
            data, sizes = encode_images(codec, part.reshape(-1, HEIGHT, WIDTH, 3))
            writer.append(data, sizes.reshape(-1, CAMERAS))
        writer.commit()
    return path


def _read(file: FrameFile, rows: Any, following: Any, **more: Any) -> Any:
    out = np.full((len(rows), 2, CAMERAS, HEIGHT, WIDTH, 3), 99, np.uint8)
    file.read_into(np.array(rows, np.int64), np.array(following, np.int64), out, **more)
    return out


@pytest.mark.parametrize("codec", IMAGE_CODECS)
@pytest.mark.parametrize(
    ("rows", "following"),
    [
        ([0], [1]),
        ([8], [8]),
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([7, 2, 2, 5, 0, 7], [8, 3, 2, 6, 1, 7]),
        ([], []),
    ],
    ids=["pair", "terminal", "window", "shuffled with repetition", "none"],
)
def test_transitions_are_those_that_were_written(
    tmp_path: Path, codec: str, rows: list[int], following: list[int]
) -> None:
    frames = _frames()
    file = FrameFile.open(_write(tmp_path / "a.frames", codec))
    expected = np.stack([frames[rows], frames[following]], axis=1)
    np.testing.assert_array_equal(_read(file, rows, following), expected)
    assert file.header.source == SOURCE
    assert file.header.cameras == ("left", "wrist")


def test_transitions_go_to_the_places_asked_for_and_nowhere_else(tmp_path: Path) -> None:
    frames = _frames()
    file = FrameFile.open(_write(tmp_path / "a.frames", "bitplanes"))
    out = np.full((5, 2, CAMERAS, HEIGHT, WIDTH, 3), 99, np.uint8)
    file.read_into(np.array([6, 1]), np.array([7, 2]), out, np.array([3, 0]))
    np.testing.assert_array_equal(out[3], frames[[6, 7]])
    np.testing.assert_array_equal(out[0], frames[[1, 2]])
    assert (out[[1, 2, 4]] == 99).all()


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_records_come_as_they_lie_in_the_order_asked_for(tmp_path: Path, codec: str) -> None:
    frames, rows = _frames(), [3, 4, 5, 0, 8]
    data, sizes = FrameFile.open(_write(tmp_path / "a.frames", codec)).read_records(rows)
    assert sizes.shape == (5, CAMERAS)
    out = np.empty((5 * CAMERAS, HEIGHT, WIDTH, 3), np.uint8)
    decode_images(codec, data, sizes.reshape(-1), out)
    np.testing.assert_array_equal(out.reshape(frames[rows].shape), frames[rows])


def _system_reads() -> int:
    (line,) = re.findall(r"syscr: (\d+)", Path("/proc/thread-self/io").read_text())
    return int(line)


@pytest.mark.parametrize("codec", ["raw", "bitplanes"])
@pytest.mark.parametrize("first", [[4], [0, 1, 2, 3]], ids=["transition", "window"])
def test_neighbours_are_one_read_of_the_index_and_one_of_the_records(
    tmp_path: Path, codec: str, first: list[int]
) -> None:
    file = FrameFile.open(_write(tmp_path / "a.frames", codec))
    rows, following = np.array(first), np.array(first) + 1
    out = np.empty((len(first), 2, CAMERAS, HEIGHT, WIDTH, 3), np.uint8)
    looks = -_system_reads() + _system_reads()
    before = _system_reads()
    file.read_into(rows, following, out)
    assert _system_reads() - before - looks == 2
    assert np.array_equal(out[:, 1], _frames()[following])


def _piece(path: Path, rows: list[int], places: list[int]) -> Piece:
    at = np.array(rows, np.int64)
    return Piece(FrameFile.open(path), at, at + 1, np.array(places, np.int64))


def test_many_files_of_any_codec_are_read_at_once(tmp_path: Path) -> None:
    frames = [_frames(seed=seed) for seed in range(4)]
    paths = [
        _write(tmp_path / f"{codec}.frames", codec, content)
        for codec, content in zip(IMAGE_CODECS, frames, strict=True)
    ]
    rows, places = [[5, 0], [7], [1, 2, 2], [3]], [[6, 1], [4], [0, 5, 3], [2]]
    out = np.full((8, 2, CAMERAS, HEIGHT, WIDTH, 3), 99, np.uint8)
    pieces = [_piece(*piece) for piece in zip(paths, rows, places, strict=True)]
    assert read_pieces(pieces, out) == {}
    for content, at, to in zip(frames, rows, places, strict=True):
        for row, place in zip(at, to, strict=True):
            np.testing.assert_array_equal(out[place], content[row : row + 2])
    assert (out[7] == 99).all()


def test_what_is_damaged_is_said_of_its_piece_and_the_others_are_read(tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{number}.frames", "bitplanes") for number in range(4)]
    for damaged in (paths[0], paths[2]):
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
    pieces = [
        _piece(path, [0, 7], [2 * number, 2 * number + 1]) for number, path in enumerate(paths)
    ]
    pieces.append(_piece(paths[1], [8], [8]))
    pieces.append(_piece(paths[0], [2], [9]))
    out = np.empty((10, 2, CAMERAS, HEIGHT, WIDTH, 3), np.uint8)
    faults = read_pieces(pieces, out)
    assert {number: error.message for number, error in faults.items()} == {
        0: f"{paths[0]}: row 8 does not match its hash",
        2: f"{paths[2]}: row 8 does not match its hash",
        4: f"{paths[1]}: row 9: rows go from 0 to 8",
    }
    frames = _frames()
    for place, row in [(2, 0), (3, 7), (6, 0), (7, 7), (9, 2)]:
        np.testing.assert_array_equal(out[place], frames[row : row + 2])


@pytest.mark.parametrize("rows", [[-1], [9], [0, 2**40]])
def test_a_row_out_of_range_is_named(tmp_path: Path, rows: list[int]) -> None:
    file = FrameFile.open(_write(tmp_path / "a.frames"))
    with pytest.raises(InvalidInput, match=f"row {rows[-1]}: rows go from 0 to 8"):
        _read(file, rows, rows)
    with pytest.raises(InvalidInput, match=f"row {rows[-1]}"):
        file.read_records(rows)


def test_a_batch_of_another_size_is_refused(tmp_path: Path) -> None:
    file = FrameFile.open(_write(tmp_path / "a.frames"))
    with pytest.raises(InvalidInput, match="expected"):
        file.read_into(np.zeros(1, np.int64), np.zeros(1, np.int64), np.empty((1, 2, 3), np.uint8))
    with pytest.raises(InvalidInput, match="places"):
        _read(file, [0], [1], places=np.array([1]))


def test_a_descriptor_stays_readable_when_the_name_is_gone(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.frames")
    first = FrameFile.open(path)
    assert first.touch()
    other = FrameFile.open(first.duplicate())
    path.unlink()
    assert not first.touch()
    first.close()
    np.testing.assert_array_equal(_read(other, [2], [3])[0], _frames()[[2, 3]])


def test_the_descriptor_is_closed_with_the_last_reference(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.frames")
    file = FrameFile.open(path)
    assert open_below(tmp_path) == 1
    del file
    assert open_below(tmp_path) == 0


def test_threads_read_the_same_bytes(tmp_path: Path) -> None:
    frames = _frames(200)
    file = FrameFile.open(_write(tmp_path / "a.frames", "bitplanes_lz4", frames))
    wrong: list[int] = []

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 199, 40)
        for _ in range(5):
            got = _read(file, rows, rows + 1)
            if not np.array_equal(got, np.stack([frames[rows], frames[rows + 1]], axis=1)):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _rows_read(path: Path, frames: Any) -> int:
    """How many rows can be read; wrong pixels, or an error that names no file, fail the test."""
    read, messages = 0, []
    try:
        file = FrameFile.open(path)
    except Corrupt as error:
        return 0 if str(path) in error.message else pytest.fail(error.message)
    for row in range(len(frames)):
        try:
            got = _read(file, [row], [row])
            data, sizes = file.read_records([row])
        except (Corrupt, InvalidInput) as error:
            messages.append(error.message)
            continue
        read += 1
        np.testing.assert_array_equal(got[0], frames[[row, row]])
        out = np.empty((CAMERAS, HEIGHT, WIDTH, 3), np.uint8)
        decode_images(file.header.codec, data, sizes.reshape(-1), out)
        np.testing.assert_array_equal(out, frames[row])
    assert all(str(path) in message for message in messages)
    return read


@pytest.mark.parametrize("codec", ["raw", "bitplanes_lz4"])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, codec: str) -> None:
    frames = _frames(3)
    sound = _write(tmp_path / "a.frames", codec, frames).read_bytes()
    damaged = tmp_path / "damaged.frames"
    header_bytes = 32 + int.from_bytes(sound[12:16], "little")
    # Of the zeros between header and index, which mean nothing, one stands for all.
    for place in [*range(header_bytes + 1), *range(4096, len(sound), 1 if codec == "raw" else 3)]:
        content = bytearray(sound)
        content[place] ^= 1 << place % 8
        damaged.write_bytes(content)
        expected = 0 if place < header_bytes else 3 if place < 4096 else 2
        assert _rows_read(damaged, frames) == expected, place


@settings(max_examples=100)
@given(data=st.data())
def test_damage_of_any_kind_never_gives_wrong_pixels(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    frames = _frames(4)
    path = _write(folder / "a.frames", data.draw(st.sampled_from(IMAGE_CODECS)), frames)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=24))
        content[start : start + len(patch)] = patch
    path.write_bytes(content)
    _rows_read(path, frames)


def test_a_file_cut_anywhere_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    sound = _write(tmp_path / "a.frames", "lz4", _frames(2)).read_bytes()
    cut = tmp_path / "cut.frames"
    for size in [*range(0, 450, 7), *range(4090, len(sound), 2), len(sound) - 1]:
        cut.write_bytes(sound[:size])
        with pytest.raises(Corrupt, match=r"cut\.frames"):
            FrameFile.open(cut)
    cut.write_bytes(sound + b"\0")
    with pytest.raises(Corrupt, match="header says"):
        FrameFile.open(cut)


@pytest.mark.parametrize("codec", ["raw", "bitplanes"])
def test_a_file_cut_while_it_is_open_is_damage_and_no_crash(tmp_path: Path, codec: str) -> None:
    path = _write(tmp_path / "a.frames", codec)
    file = FrameFile.open(path)
    os.truncate(path, path.stat().st_size - 10)
    np.testing.assert_array_equal(_read(file, [0], [1])[0], _frames()[[0, 1]])
    with pytest.raises(Corrupt, match=r"a\.frames: ends at"):
        _read(file, [7], [8])
    os.truncate(path, 100)
    with pytest.raises(Corrupt, match=r"a\.frames: ends at"):
        file.read_records([0])


def _forge(path: Path, **changes: Any) -> None:
    """Rewrite the header with other values and a right hash."""
    content = bytearray(path.read_bytes())
    _, version, size, index, _ = struct.unpack_from("<8sIIQQ", content)
    fields = json.loads(content[32 : 32 + size]) | changes
    text = json.dumps(fields).encode()
    digest = xxhash.xxh3_64_intdigest(struct.pack("<IIQ", version, len(text), index) + text)
    content[8:4096] = (struct.pack("<IIQQ", version, len(text), index, digest) + text).ljust(
        4088, b"\0"
    )
    path.write_bytes(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"observations": 2**39},
        {"observations": -1},
        {"observations": 2**70},
        {"observations": True},
        {"data_bytes": 2**59},
        {"height": 0},
        {"height": 2**31},
        {"width": 1.5},
        {"codec": "pickle"},
        {"codec": 7},
        {"cameras": ["left"] * 2000},
        {"cameras": "left"},
        {"cameras": [None]},
        {"source": None},
        {"source": {"path": "x"}},
    ],
    ids=str,
)
def test_a_forged_header_is_refused_and_nothing_is_allocated_for_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = _write(tmp_path / "a.frames")
    _forge(path, **changes)
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match=r"a\.frames"):
            FrameFile.open(path)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_forged_sizes_do_not_make_a_reader_allocate(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.frames", "bitplanes")
    content = bytearray(path.read_bytes())
    struct.pack_into("<QQII", content, 4096, 0, 0, 2**32 - 1, 2**32 - 1)
    path.write_bytes(content)
    file = FrameFile.open(path)
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match=r"row 0: .* do not fit"):
            file.read_records([0])
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_memory_does_not_follow_the_number_of_observations(tmp_path: Path) -> None:
    """A hundred million observations, most of them a hole, cost what one costs."""
    rows, row = 100_000_000, 98_765_432
    header = FrameHeader(SOURCE, 1, 2, ("left",), "raw", rows, data_bytes=rows * 6)
    index_offset, image = header.reserve(), bytes(range(6))
    path = tmp_path / "large.frames"
    sizes = struct.pack("<I4x", 6)
    digest = xxhash.xxh3_64_intdigest(image, xxhash.xxh3_64_intdigest(sizes, row))
    with path.open("wb") as file:
        file.write(header.pack(index_offset))
        file.seek(index_offset + row * 24)
        file.write(struct.pack("<QQ", row * 6, digest) + sizes)
        file.seek(index_offset + rows * 24 + row * 6)
        file.write(image)
        file.truncate(index_offset + rows * 24 + rows * 6)
    tracemalloc.start()
    try:
        frames = FrameFile.open(path)
        assert frames.read_records([row])[0] == image
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_what_is_no_file_of_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.frames"):
        FrameFile.open(tmp_path / "gone.frames")
    (tmp_path / "b.frames").write_bytes(b"not frames" * 1000)
    with pytest.raises(Corrupt, match="is no file of cached frames"):
        FrameFile.open(tmp_path / "b.frames")
    with pytest.raises(Corrupt, match="regular"):
        FrameFile.open(tmp_path)


def test_an_unfinished_file_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    with FrameFileWriter(path, _header()) as writer:
        data, sizes = encode_images("raw", _frames()[:4].reshape(-1, HEIGHT, WIDTH, 3))
        writer.append(data, sizes.reshape(-1, CAMERAS))
        with pytest.raises(InvalidInput, match="4 observations, 9 were announced"):
            writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    with FrameFileWriter(path, _header()), pytest.raises(Conflict, match="another process"):
        FrameFileWriter(path, _header())
    _write(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.frames"]


def test_wrong_sizes_are_not_written(tmp_path: Path) -> None:
    with FrameFileWriter(tmp_path / "a.frames", _header()) as writer:
        with pytest.raises(InvalidInput, match="sizes announce"):
            writer.append(b"123", np.array([[1, 1]], np.uint32))
        with pytest.raises(InvalidInput, match="10 observations"):
            writer.append(b"1" * 20, np.ones((10, 2), np.uint32))


_HANG = """
import signal, sys
from pathlib import Path
from penstock.frame_file import FrameFileWriter, FrameHeader, FrameSource
header = FrameHeader(FrameSource("x", 1, 1, "00"), 5, 7, ("left",), "raw", 9)
writer = FrameFileWriter(Path(sys.argv[1]), header)
print("writing", flush=True)
signal.pause()
"""


def test_what_a_killed_writer_leaves_is_removed_and_a_living_one_is_left_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.frames"
    process = subprocess.Popen(
        [sys.executable, "-c", _HANG, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert remove_unfinished(tmp_path) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.part"]
    assert remove_unfinished(tmp_path) == [tmp_path / "a.part"]
    assert list(tmp_path.iterdir()) == []
    assert len(FrameFile.open(_write(path))) == ROWS
