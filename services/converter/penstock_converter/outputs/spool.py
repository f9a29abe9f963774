"""Columns of numbers on disk: written as they come, read one column at a time for statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spool"]


class Spool:
    """Rows of one feature over all episodes, (N, D) of one type.

    Args:
        path: Scratch file; a new one is made.
        width: D.
        dtype: Type of the numbers.
    """

    def __init__(self, path: Path, width: int, dtype: np.dtype[Any]) -> None:
        self._path, self._width, self._dtype = path, width, dtype
        self._file = path.open("wb")
        self.rows = 0

    def append(self, values: NDArray[Any]) -> None:
        """Append (n, D) values."""
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self.rows += len(values)

    def truncate(self, rows: int) -> None:
        """Forget all rows from number ``rows`` on."""
        self._file.flush()
        self._file.truncate(rows * self._width * self._dtype.itemsize)
        self._file.seek(0, 2)
        self.rows = rows

    def view(self, start: int = 0) -> NDArray[Any]:
        """Rows from ``start`` on, (n, D), mapped and not read."""
        self._file.flush()
        count = self.rows - start
        offset = start * self._width * self._dtype.itemsize
        return np.memmap(
            self._path, self._dtype, mode="r", offset=offset, shape=(count, self._width)
        )

    def close(self) -> None:
        """Close the scratch file."""
        self._file.close()
