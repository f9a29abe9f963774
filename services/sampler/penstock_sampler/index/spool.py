"""An unnamed file for records that have no place of their own: it goes away with the process."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

from penstock.errors import LimitExceeded
from penstock_sampler.index.scalars import RecordShape, RecordWriter

__all__ = ["Spool"]


class Spool:
    """Records of several files, one after the other.

    Args:
        directory: Where the file lives; None for the system's temporary directory.

    Raises:
        LimitExceeded: There is no place for it.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or tempfile.gettempdir()
        self.end = 0
        try:
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise self.full(error) from error
        # A client that is dropped without being closed leaves no open file behind.
        weakref.finalize(self, self._file.close)

    @property
    def descriptor(self) -> int:
        """To read from."""
        return self._file.fileno()

    def writer(self, shape: RecordShape) -> RecordWriter:
        """Writes behind what was kept."""
        return RecordWriter(self.descriptor, self.end, shape)

    def keep(self, writer: RecordWriter) -> None:
        """Keep what ``writer`` wrote; without this, the next one writes over it."""
        self.end = writer.end

    def full(self, error: OSError) -> LimitExceeded:
        """The error of a file that cannot be written."""
        return LimitExceeded(
            "joints, actions and rewards need room in a temporary file in "
            f"{self._directory}, which cannot be written ({error.strerror}): free space "
            "there, or name a folder with room in the setting spool_dir (--spool-dir or "
            "PENSTOCK_SPOOL_DIR)",
            reason="DISK_FULL",
        )

    def close(self) -> None:
        """Release the file and its space."""
        self._file.close()
