import numpy as np
import pytest

from penstock import native
from penstock.codecs import IMAGE_CODECS, encode_images
from penstock.frame_file import FrameFile, FrameFileWriter, FrameHeader, FrameSource

ROWS, CAMERAS, SIZE = 40, 3, (6, 50)
PLACES = 64
GUARD_BYTES = 256


def write(path, codec, seed, size=SIZE):
    rng = np.random.default_rng(seed)
    # Few bits in some rows and all in others, so that records differ in size.
    noise = rng.integers(0, 256, (ROWS, CAMERAS, *size, 3), np.uint8)
    frames = noise >> rng.integers(0, 8, (ROWS, 1, 1, 1, 1)).astype(np.uint8)
    names = tuple("abc"[:CAMERAS])
    header = FrameHeader(FrameSource("x", 1, 1, "00"), *size, names, codec, ROWS)
    with FrameFileWriter(path, header) as writer:
        data, sizes = encode_images(codec, frames.reshape(-1, *size, 3))
        writer.append(data, sizes.reshape(ROWS, CAMERAS))
        writer.commit()
    return FrameFile.open(path), frames


def read(kernels, files, wanted, offset_bytes=0):
    """What comes to which place, of ``wanted``: file, row, places.

    Memory begins so many bytes after a multiple of 64.
    """
    height, width, _ = files[0].header.image_shape
    count = PLACES * files[0].header.raw_record_bytes
    memory = np.full(count + 3 * GUARD_BYTES, 77, np.uint8)
    begin = GUARD_BYTES + (offset_bytes - address(memory)) % 64
    out = memory[begin : begin + count].reshape(PLACES, CAMERAS, height, 3 * width)
    table, places = [], []
    for file, row, at in wanted:
        table.append((file, row, len(places), len(at)))
        places += at
    fields = np.array([file.records.native_fields for file in files], np.int64)
    done = kernels.read_frames(
        native.xxh3_address(),
        fields,
        np.array(table, np.int64),
        np.array(places, np.int64),
        out,
    )
    assert (memory[:begin] == 77).all()
    assert (memory[begin + count :] == 77).all()
    return done, out.reshape(PLACES, CAMERAS, height, width, 3)


def address(values):
    return values.__array_interface__["data"][0]


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_every_level_reads_what_was_written_to_where_it_belongs(tmp_path, kernels, codec):
    sources = [write(tmp_path / f"{seed}.frames", codec, seed) for seed in range(2)]
    wanted = [(0, row, [row]) for row in range(35)]  # more neighbours than one read takes
    wanted += [(1, 7, [40]), (1, 8, [41, 45, 43]), (0, 39, [42]), (0, 38, [44])]
    done, out = read(kernels, [file for file, _ in sources], wanted)
    assert done == len(wanted)
    filled = {place for _, _, at in wanted for place in at}
    for file, row, at in wanted:
        for place in at:
            assert np.array_equal(out[place], sources[file][1][row]), (row, place)
    assert (out[[place for place in range(PLACES) if place not in filled]] == 77).all()


@pytest.mark.parametrize("codec", ["bitplanes", "bitplanes_lz4"])
@pytest.mark.parametrize(
    ("size", "offset_bytes"),
    [
        ((96, 128), 0),
        ((96, 128), 16),  # not at a cache line
        ((224, 224), 0),  # rows that end within a block
        ((1600, 22), 0),  # a row is little longer than a block
        ((2400, 16), 0),  # a row is shorter than a block
        ((60, 1365), 0),  # the last row that is short enough to be kept
        ((60, 1366), 0),
        ((101, 129), 0),  # images that do not begin at a cache line
    ],
)
def test_large_images_are_the_same_whichever_way_they_are_written(
    tmp_path, kernels, codec, size, offset_bytes
):
    file, frames = write(tmp_path / "a.frames", codec, 5, size)
    wanted = [(0, row, [row]) for row in range(0, ROWS, 2)]
    wanted += [(0, row, [row, ROWS + row // 2]) for row in range(1, ROWS, 10)]
    wanted += [(0, row, [row]) for row in range(3, ROWS, 2) if row % 10 != 1]
    assert len(wanted) * file.header.raw_record_bytes >= 4 << 20
    done, out = read(kernels, [file], wanted, offset_bytes)
    assert done == len(wanted)
    for _, row, at in wanted:
        assert (out[at] == frames[row]).all()


@pytest.mark.parametrize("codec", IMAGE_CODECS)
@pytest.mark.parametrize("damaged", [0, 5, 36])
def test_the_first_damaged_observation_is_named_and_what_comes_before_is_read(
    tmp_path, kernels, codec, damaged
):
    path = tmp_path / "a.frames"
    file, frames = write(path, codec, 3)
    _, sizes = file.read_records(range(damaged))
    content = bytearray(path.read_bytes())
    content[file.records.data_offset + int(sizes.sum())] ^= 16
    path.write_bytes(content)
    done, out = read(kernels, [file], [(0, row, [row]) for row in range(ROWS)])
    assert done == damaged
    assert np.array_equal(out[:damaged], frames[:damaged])


@pytest.mark.parametrize("row", [-1, ROWS, 2**40, -(2**62)])
def test_rows_that_are_not_there_are_not_read(tmp_path, kernels, row):
    file, _ = write(tmp_path / "a.frames", "bitplanes", 0)
    assert read(kernels, [file], [(0, 1, [0]), (0, row, [1])])[0] == 1


def test_a_closed_descriptor_is_damage(tmp_path, kernels):
    file, _ = write(tmp_path / "a.frames", "raw", 0)
    file.close()
    assert read(kernels, [file], [(0, 1, [0])])[0] == 0
