"""Joints, actions and rewards of all files side by side in one unnamed file.

A batch takes one small read a transition from it instead of four through HDF5, and memory does not
grow with the dataset. The file has no name, so it goes away with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Internal, LimitExceeded

__all__ = ["ScalarStore"]


class ScalarStore:
    """Records of ``joint | action | reward`` as float32, one per observation.

    The record of an observation that no action follows (N+1 layout) has zeros for action and
    reward. Reading is safe from several threads, and after a fork.

    Args:
        joint_dim: Width of a joint vector.
        action_dim: Width of an action vector.
        directory: Where the file lives; None for the system's temporary directory.

    Raises:
        LimitExceeded: There is no place for the file.
    """

    def __init__(self, joint_dim: int, action_dim: int, directory: Path | None = None) -> None:
        self._joint, self._action = joint_dim, action_dim
        self._width = joint_dim + action_dim + 1
        self._record_bytes = self._width * 4
        self.rows = 0
        self._directory = directory or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise self._full(error) from error
        # A client that is dropped without being closed leaves no open file behind.
        weakref.finalize(self, self._file.close)

    def append(
        self,
        joint: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
    ) -> None:
        """Add ``(n, J)`` joints with ``(m, A)`` actions and ``(m,)`` rewards, m at most n.

        Raises:
            LimitExceeded: The file system is full.
        """
        records = np.zeros((len(joint), self._width), np.float32)
        records[:, : self._joint] = joint
        records[: len(action), self._joint : -1] = action
        records[: len(reward), -1] = reward
        data, offset = memoryview(records.tobytes()), self.rows * self._record_bytes
        try:
            while data:
                written = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise self._full(error) from error
        self.rows += len(joint)

    def truncate(self, rows: int) -> None:
        """Forget all records from ``rows`` on."""
        self._file.truncate(rows * self._record_bytes)
        self.rows = rows

    def read(
        self, rows: NDArray[np.int64], next_rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records of ``rows`` and of ``next_rows``, both ``(n, J + A + 1) float32``.

        A next row is the row itself or the one after it.
        """
        pairs = np.empty((len(rows), 2, self._width), np.float32)
        descriptor = self._file.fileno()
        both = (next_rows != rows).tolist()
        for view, row, pair in zip(pairs, rows.tolist(), both, strict=True):
            target = view if pair else view[:1]
            if os.preadv(descriptor, [target.data], row * self._record_bytes) != target.nbytes:
                raise Internal(f"record {row} of {self.rows} is cut short")
        pairs[next_rows == rows, 1] = pairs[next_rows == rows, 0]
        return pairs[:, 0], pairs[:, 1]

    def close(self) -> None:
        """Release the file and its space."""
        self._file.close()

    def _full(self, error: OSError) -> LimitExceeded:
        return LimitExceeded(
            f"joints, actions and rewards need {self._record_bytes} bytes a row in a temporary "
            f"file in {self._directory}, which cannot be written ({error.strerror}): free space "
            "there, or name a folder with room in the setting spool_dir (--spool-dir or "
            "PENSTOCK_SPOOL_DIR)",
            reason="DISK_FULL",
        )
