"""One dataset of an open HDF5 file: described once, read by ranges of rows."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

__all__ = ["Column"]


class Column:
    """A dataset that nobody writes to.

    Low-level calls: an index opens each dataset for a few rows, and what h5py prepares for any
    selection, and asks HDF5 anew for each property, costs more than reading them.

    Args:
        path: It is read by; a linked dataset has another name of its own.
        handle: Of the open dataset.

    Attributes:
        shape: All axes; the first one has a row each.
        dtype: Of a value.
        address: Of its data in the file, in bytes from the start; None unless they lie there in one
            piece, as they are.
    """

    def __init__(self, path: str, handle: h5py.h5d.DatasetID) -> None:
        self.path, self.handle = path, handle
        # None, of a dataset that holds nothing by its type, would be no shape to check or to tell.
        self.shape: tuple[int, ...] = handle.shape or ()
        self.dtype = _dtype(handle.get_type().encode())
        self.address: int | None = handle.get_offset()

    @property
    def rows(self) -> int:
        """Length of the first axis; 0 for a dataset without axes."""
        return int(self.shape[0]) if self.shape else 0

    @property
    def described(self) -> str:
        """Shape and dtype, for messages."""
        return f"{self.shape} {_name(self.dtype)}"

    @cached_property
    def created(self) -> h5py.h5p.PropDCID:
        """How it is stored."""
        return self.handle.get_create_plist()

    @cached_property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of a chunk; None where the dataset has none."""
        if self.address is not None or self.created.get_layout() != h5py.h5d.CHUNKED:
            return None
        return self.created.get_chunk()

    @property
    def is_virtual(self) -> bool:
        """Whether it is made of other datasets."""
        return self.address is None and self.created.get_layout() == h5py.h5d.VIRTUAL

    @property
    def is_external(self) -> bool:
        """Whether its data lie in files of other formats."""
        return self.address is None and self.created.get_external_count() > 0

    @property
    def file_name(self) -> bytes:
        """Path of the file that it is in."""
        return h5py.h5f.get_name(self.handle)

    def read(self, start: int, stop: int, step: int = 1) -> NDArray[Any]:
        """Rows ``start`` to before ``stop``, every ``step``-th one, in the dataset's own type.

        Raises:
            OSError: They cannot be read; other kinds of ``HDF5_ERRORS`` likewise.
        """
        shape = (len(range(start, stop, step)), *self.shape[1:])
        rows = np.empty(shape, self.dtype)
        if not rows.size:
            return rows
        there = here = h5py.h5s.ALL
        if start or shape != self.shape:
            there, here = self.handle.get_space(), _in_memory(shape)
            others = (1,) * (len(shape) - 1)
            there.select_hyperslab((start, *(0 for _ in others)), shape, (step, *others))
        self.handle.read(here, there, rows, _type_in_memory(self.dtype))
        return rows

    def full(self) -> h5py.Dataset:
        """With all that h5py offers."""
        return h5py.Dataset(self.handle, readonly=True)


# To make one of these costs more than to read a small frame.
@lru_cache(64)
def _dtype(encoded: bytes) -> np.dtype[Any]:
    return h5py.h5t.decode(encoded).dtype


@lru_cache(64)
def _in_memory(shape: tuple[int, ...]) -> h5py.h5s.SpaceID:
    return h5py.h5s.create_simple(shape)


@lru_cache(64)
def _type_in_memory(dtype: np.dtype[Any]) -> h5py.h5t.TypeID:
    return h5py.h5t.py_create(dtype)


_name = lru_cache(64)(str)
