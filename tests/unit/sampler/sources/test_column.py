"""A dataset through the low-level calls: what h5py gives, and nothing where it gives none."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

ROWS = 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    draw = np.random.default_rng(3)
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["float32"] = draw.normal(size=(ROWS, 3)).astype(np.float32)
        file["big endian"] = draw.normal(size=(ROWS, 2)).astype(">f8")
        file["bool"] = draw.random(ROWS) < 0.5
        file["one"] = np.array([[1, 2]], np.int16)
        file["no rows"] = np.empty((0, 4), np.float32)
        file["scalar"] = 5
        file["nothing"] = h5py.Empty("f4")
        group = file.create_group("grüppe/in it")
        group.create_dataset("frames", data=draw.integers(0, 255, (ROWS, 4, 5, 3), np.uint8))
        group.create_dataset("chunks", data=np.arange(ROWS), chunks=(2,), compression="gzip")
        file["named type"] = np.dtype(np.float32)
        file["nowhere"] = h5py.SoftLink("/gone")
    return path


@pytest.mark.parametrize(
    "name",
    ["float32", "big endian", "bool", "one", "grüppe/in it/frames", "grüppe/in it/chunks"],
)
def test_rows_shape_and_dtype_are_those_of_h5py(path: Path, name: str) -> None:
    with h5py.File(path) as file:
        there, expected = file[name], file[name][...]
        told = (there.shape, there.dtype, there.chunks)
    with Hdf5File(path) as file:
        column = file.column(name)
        assert (column.shape, column.dtype, column.chunks) == told
        assert column.described == f"{told[0]} {told[1]}"
        last = column.rows - 1
        for start, stop, step in ((0, last + 1, 1), (last, last + 1, 1), (0, last + 1, last or 1)):
            found = column.read(start, stop, step)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected[start:stop:step])


def test_rows_that_are_not_there_are_no_others(path: Path) -> None:
    """Of a single row, the range of another one has the shape of all."""
    with Hdf5File(path) as file:
        for name, start, stop in (
            ("one", 1, 2),
            ("float32", 0, ROWS + 1),
            ("float32", 1, ROWS + 1),
        ):
            with pytest.raises(HDF5_ERRORS):
                file.column(name).read(start, stop)
        assert file.column("no rows").read(0, 0).shape == (0, 4)
        for name in ("scalar", "nothing"):
            assert (file.column(name).shape, file.column(name).rows) == ((), 0)


def test_what_is_no_dataset_is_told_apart(path: Path) -> None:
    with Hdf5File(path) as file:
        assert file.names("grüppe") == {"in it"}
        assert file.is_group("grüppe/in it")
        assert not file.is_group("float32")
        assert file.find("grüppe") is None
        assert file.find("named type") is None
        assert file.has("nowhere")
        for name in ("nowhere", "never"):
            with pytest.raises(KeyError):
                file.find(name)
        with pytest.raises(KeyError, match="grüppe is no dataset"):
            file.column("grüppe")


def test_a_closed_file_can_be_written_though_a_column_is_still_there(path: Path) -> None:
    file = Hdf5File(path)
    column = file.column("float32")
    file.close()
    file.close()
    with h5py.File(path, "r+") as writer:
        writer["float32"][0] = 1.0
    with pytest.raises(HDF5_ERRORS):
        column.read(0, 1)
