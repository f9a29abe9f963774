from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from penstock_sampler.index.scalars import (
    DamagedRecords,
    RecordPlace,
    RecordReader,
    RecordShape,
    RecordWriter,
)
from penstock_sampler.index.spool import Spool
from penstock_sampler.sources.files import OpenFiles

from penstock.errors import LimitExceeded


def _columns(rows: int, shape: RecordShape, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(rows, shape.joint_dim)).astype(np.float32),
        rng.normal(size=(rows - 1, shape.action_dim)).astype(np.float32),
        rng.normal(size=rows - 1).astype(np.float32),
    )


def _write(writer: RecordWriter, columns: tuple[NDArray[np.float32], ...], step: int) -> None:
    joint, action, reward = columns
    for start in range(0, len(joint), step):
        part = slice(start, start + step)
        writer.append(joint[part], action[part], reward[part])
    writer.finish()


@given(st.integers(2, 700), st.integers(1, 400), st.integers(1, 40), st.integers(1, 1100))
def test_records_come_back_with_their_neighbours(
    rows: int, step: int, joint_dim: int, action_dim: int
) -> None:
    shape = RecordShape(joint_dim, action_dim)
    spool = Spool()
    places, written = [], []
    for number in range(2):
        writer = spool.writer(shape)
        columns = _columns(rows, shape, number)
        _write(writer, columns, step)
        places.append(RecordPlace(None, spool.descriptor, spool.end, rows))
        written.append(columns)
        spool.keep(writer)
        assert writer.rows == rows
        assert writer.end - places[-1].offset == shape.size_bytes(rows)
    reader = RecordReader(shape, places, OpenFiles(4))
    rng = np.random.default_rng(rows)
    files = rng.integers(0, 2, 20).astype(np.int32)
    wanted = rng.integers(0, rows - 1, 20)
    following = wanted + rng.integers(0, 2, 20)
    current, after = reader.read(files, wanted, following)
    for place, file in enumerate(files.tolist()):
        joint, action, reward = written[file]
        row, next_row = int(wanted[place]), int(following[place])
        expected = np.concatenate([joint[row], action[row], reward[row : row + 1]])
        np.testing.assert_array_equal(current[place], expected)
        np.testing.assert_array_equal(after[place, :joint_dim], joint[next_row])
    spool.close()


def test_the_observation_after_the_last_action_has_zeros_for_it() -> None:
    shape = RecordShape(3, 2)
    spool = Spool()
    writer = spool.writer(shape)
    _write(writer, _columns(5, shape), 5)
    spool.keep(writer)
    reader = RecordReader(shape, [RecordPlace(None, spool.descriptor, 0, 5)], OpenFiles(1))
    last = np.array([4], np.int64)
    current, _ = reader.read(np.zeros(1, np.int32), last, last)
    assert (current[0, :3] != 0).all()
    assert current[0, 3:].tolist() == [0, 0, 0]
    spool.close()


@pytest.mark.parametrize("damage", ["flip", "swap", "cut"])
def test_damaged_records_are_never_served(tmp_path: Path, damage: str) -> None:
    shape = RecordShape(16, 16)
    path = tmp_path / "records"
    with path.open("w+b") as file:
        _write(RecordWriter(file.fileno(), 0, shape), _columns(100, shape), 100)
    size = shape.block_bytes
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[size + 1000] ^= 1
    elif damage == "swap":
        data[size : 2 * size], data[2 * size : 3 * size] = (
            data[2 * size : 3 * size],
            data[size : 2 * size],
        )
    else:
        del data[size + 10 :]
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    reader = RecordReader(shape, [RecordPlace(None, descriptor, 0, 100)], OpenFiles(1))
    file = np.zeros(1, np.int32)
    sound, damaged = np.array([3], np.int64), np.array([shape.block_rows + 1], np.int64)
    reader.read(file, sound, sound)
    with pytest.raises(DamagedRecords) as caught:
        reader.read(file, damaged, damaged)
    assert caught.value.file == 0
    os.close(descriptor)


def test_a_folder_that_cannot_hold_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="spool_dir"):
        Spool(tmp_path / "missing")
