"""Observations as they lie in their files: sizes, bytes, damage; and decoding them from memory."""

import errno
import os
import socket
import threading

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from penstock import native
from penstock.codecs import IMAGE_CODECS, decode_into_places, encode_images
from penstock.errors import Corrupt, InvalidInput
from penstock.frame_file import (
    DamagedFile,
    EncodedRecords,
    FrameFile,
    FrameFileWriter,
    FrameHeader,
    FrameSource,
    encoded,
)
from penstock.observations import Observations, decode_observations

ROWS, CAMERAS, SIZE = 50, 3, (6, 50)


@pytest.fixture(params=["native", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(native, "kernels", lambda: None)
    elif not native.available():
        pytest.skip("the native library was not built")
    return request.param


def write(path, codec="bitplanes", seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (ROWS * CAMERAS, *SIZE, 3), np.uint8)
    images = noise >> rng.integers(0, 8, (ROWS * CAMERAS, 1, 1, 1)).astype(np.uint8)
    header = FrameHeader(FrameSource("x", 1, 1, "00"), *SIZE, tuple("abc"), codec, ROWS)
    with FrameFileWriter(path, header) as writer:
        data, sizes = encode_images(codec, images)
        writer.append(data, sizes.reshape(ROWS, CAMERAS))
        writer.commit()
    return FrameFile.open(path)


WANTED = [(0, row) for row in range(40)] + [(1, 7), (1, 8), (1, 9), (1, 3), (0, 49), (0, 0)]


@pytest.mark.parametrize("codec", IMAGE_CODECS)
@pytest.mark.parametrize("pieces", [1, 3, len(WANTED)])
def test_records_come_as_they_lie_in_their_files(tmp_path, way, codec, pieces):
    files = [write(tmp_path / f"{seed}.frames", codec, seed) for seed in range(2)]
    records = EncodedRecords(files, WANTED)
    one_by_one = [files[file].read_records([row]) for file, row in WANTED]
    assert np.array_equal(records.image_bytes, np.concatenate([sizes for _, sizes in one_by_one]))
    assert len(records) == records.image_bytes.sum()
    ends = np.cumsum(records.image_bytes.sum(axis=1)).tolist()
    begin = 0
    for numbers in np.array_split(np.arange(len(WANTED)), pieces):
        end = ends[numbers[-1]]
        memory = bytearray(b"\x55" * (end - begin + 32))
        records.read_into(begin, memoryview(memory)[16:-16])
        assert bytes(memory[16:-16]) == b"".join(one_by_one[i][0] for i in numbers)
        assert memory[:16] == memory[-16:] == b"\x55" * 16
        begin = end
    assert not records.from_disk  # it has just been written


def test_reading_ahead_of_a_disk_gives_the_same(tmp_path):
    kernels, address = native.kernels(), native.xxh3_address()
    if kernels is None or not address:
        pytest.skip("the native library was not built")
    file = write(tmp_path / "a.frames")
    expected, sizes = file.read_records(range(ROWS))
    fields = np.array([file.records.native_fields], np.int64)
    table = np.zeros((ROWS, 4), np.int64)
    table[:, 1] = np.arange(ROWS)
    shape = (CAMERAS, SIZE[0], 3 * SIZE[1])
    for count in (1, 35, ROWS):
        out = bytearray(int(sizes[:count].sum()))
        # Told of the first one, it tells the system of all others.
        done, told = kernels.read_records(
            address, fields, table, shape, memoryview(out), count=count, advised=1
        )
        assert (done, told) == (count, ROWS)
        assert out == expected[: len(out)]


@pytest.mark.parametrize("damaged", [0, 5, 36])
def test_a_damaged_record_is_named(tmp_path, way, damaged):
    path = tmp_path / "a.frames"
    file = write(path)
    _, sizes = file.read_records(range(damaged))
    content = bytearray(path.read_bytes())
    content[file.records.data_offset + int(sizes.sum())] ^= 16
    path.write_bytes(content)
    records = EncodedRecords([file], [(0, row) for row in range(ROWS)])
    with pytest.raises(DamagedFile, match=rf"a\.frames: row {damaged} does not match") as raised:
        records.read_into(0, memoryview(bytearray(len(records))))
    assert raised.value.file is file


def test_a_damaged_index_is_named(tmp_path, way):
    path = tmp_path / "a.frames"
    file = write(path)
    with path.open("r+b") as stream:
        stream.seek(file.records.index_offset + 7 * file.header.entry_bytes)
        stream.write(b"\xff" * 8)
    assert len(EncodedRecords([file], [(0, row) for row in range(7)]))
    with pytest.raises(DamagedFile, match=r"a\.frames: row 7: .* the index is damaged"):
        EncodedRecords([file], [(0, row) for row in range(ROWS)])


@pytest.mark.parametrize("row", [-1, ROWS, 2**40])
def test_a_row_that_is_not_there_is_refused(tmp_path, way, row):
    with pytest.raises(InvalidInput, match=f"row {row}"):
        EncodedRecords([write(tmp_path / "a.frames")], [(0, 1), (0, row)])


def test_a_truncated_file_is_damage(tmp_path, way):
    path = tmp_path / "a.frames"
    file = write(path)
    records = EncodedRecords([file], [(0, row) for row in range(ROWS)])
    with path.open("r+b") as stream:
        stream.truncate(file.size_bytes - 10)
    with pytest.raises(DamagedFile, match=r"a\.frames: ends at"):
        records.read_into(0, memoryview(bytearray(len(records))))


@pytest.fixture
def sendable():
    if native.kernels() is None or not native.xxh3_address():
        pytest.skip("the native library was not built")


def sent(records, begin, end):
    """What arrives at the other end of a socket; what sending raises comes after it."""
    ours, theirs = socket.socketpair()
    found = []

    def receive():
        while piece := theirs.recv(1 << 16):
            found.append(piece)

    with theirs:
        receiving = threading.Thread(target=receive)
        receiving.start()
        try:
            with ours:
                records.send(begin, end, ours.fileno())
        finally:
            receiving.join()
    return b"".join(found)


def no_sendfile(*_):
    raise OSError(errno.EINVAL, "not on this file system")


def no_answer(descriptor, memory, at, flags=0, preadv=os.preadv):
    if flags:
        raise OSError(errno.EOPNOTSUPP, "not on this file system")
    return preadv(descriptor, memory, at)


@pytest.mark.parametrize("lacking", ["nothing", "sendfile", "RWF_NOWAIT here", "RWF_NOWAIT there"])
@pytest.mark.parametrize("pieces", [1, 3, len(WANTED)])
def test_records_are_sent_as_they_lie_in_their_files_with_their_hashes(
    tmp_path, sendable, monkeypatch, pieces, lacking
):
    if lacking == "sendfile":
        monkeypatch.setattr(os, "sendfile", no_sendfile)
    elif lacking == "RWF_NOWAIT here":
        monkeypatch.setattr(encoded, "_NO_WAIT", 0)
    elif lacking == "RWF_NOWAIT there":
        monkeypatch.setattr(os, "preadv", no_answer)
    files = [write(tmp_path / f"{seed}.frames", "bitplanes", seed) for seed in range(2)]
    records = EncodedRecords(files, WANTED)
    one_by_one = [files[file].read_records([row])[0] for file, row in WANTED]
    for data, (digest, seed) in zip(one_by_one, records.hashes.tolist(), strict=True):
        assert xxhash.xxh3_64_intdigest(data, seed) == digest
    # Nobody who sends another record of the same size goes unnoticed.
    assert len(set(records.hashes[:40, 1].tolist())) == 40
    ends = np.cumsum([len(data) for data in one_by_one]).tolist()
    begin = 0
    for numbers in np.array_split(np.arange(len(WANTED)), pieces):
        end = ends[numbers[-1]]
        assert sent(records, begin, end) == b"".join(one_by_one[i] for i in numbers)
        begin = end
    # Frames of a connection end anywhere.
    whole, size = b"".join(one_by_one), len(records)
    for begin, end in ((0, 1), (1, size - 1), (ends[0] - 1, ends[0]), (ends[0] - 1, ends[1] + 1)):
        assert sent(records, begin, end) == whole[begin:end]
    assert sent(records, ends[0], ends[0]) == b""


@pytest.mark.parametrize("sendfile", [True, False])
def test_a_file_that_ends_too_soon_is_damage_when_it_is_sent(
    tmp_path, sendable, monkeypatch, sendfile
):
    if not sendfile:
        monkeypatch.setattr(os, "sendfile", no_sendfile)
    path = tmp_path / "a.frames"
    file = write(path)
    records = EncodedRecords([file], [(0, row) for row in range(ROWS)])
    with path.open("r+b") as stream:
        stream.truncate(file.size_bytes - 10)
    with pytest.raises(DamagedFile, match=r"a\.frames: ends at") as raised:
        sent(records, 0, len(records))
    assert raised.value.file is file


def test_a_socket_that_is_gone_is_no_damage(tmp_path, sendable):
    records = EncodedRecords([write(tmp_path / "a.frames")], [(0, 1)])
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(BrokenPipeError):
            records.send(0, len(records), ours.fileno())


def test_without_the_native_library_nothing_can_be_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "kernels", lambda: None)
    assert EncodedRecords([write(tmp_path / "a.frames")], [(0, 1)]).hashes is None


@pytest.mark.parametrize("codec", IMAGE_CODECS)
@given(places=st.permutations(range(8)), edges=st.lists(st.integers(0, 8), min_size=3, max_size=3))
def test_observations_are_decoded_to_all_their_places(codec, places, edges):
    firsts = np.array([0, *sorted(edges), 8])
    images = np.random.default_rng(8).integers(0, 99, (4 * CAMERAS, *SIZE, 3), np.uint8)
    data, sizes = encode_images(codec, images)
    for kernels in {native.kernels(), None}:
        out = np.full((9, CAMERAS, *SIZE, 3), 7, np.uint8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "kernels", lambda kernels=kernels: kernels)
            decode_into_places(
                codec, data, sizes.reshape(4, CAMERAS), firsts, np.array(places), out
            )
        for number, observation in enumerate(images.reshape(4, CAMERAS, *SIZE, 3)):
            for place in places[firsts[number] : firsts[number + 1]]:
                assert np.array_equal(out[place], observation)
        assert (out[8] == 7).all()


def test_what_does_not_decode_is_named(way):
    images = np.random.default_rng(8).integers(0, 255, (4, *SIZE, 3), np.uint8)
    data, sizes = encode_images("bitplanes", images)
    sizes = sizes.reshape(4, 1)
    sizes[2] -= 3
    out = np.empty((4, 1, *SIZE, 3), np.uint8)
    with pytest.raises(Corrupt, match="observation 2 of 4: "):
        decode_into_places("bitplanes", data[:-3], sizes, np.arange(5), np.arange(4), out)


def test_memory_that_is_not_contiguous_is_refused_and_not_copied():
    images = np.zeros((2, *SIZE, 3), np.uint8)
    data, sizes = encode_images("raw", images)
    out = np.empty((4, 1, *SIZE, 3), np.uint8)[::2]
    with pytest.raises(InvalidInput, match="contiguous"):
        decode_into_places("raw", data, sizes.reshape(2, 1), np.arange(3), np.arange(2), out)
    shown = Observations("raw", *SIZE, sizes.reshape(2, 1), data, np.array([0]), np.array([1]))
    with pytest.raises(InvalidInput, match="contiguous"):
        decode_observations(shown, np.empty((4, 2, 1, *SIZE, 3), np.uint8)[::2])
