"""Numbered files of a LeRobot dataset: ``chunk-000/file-000`` and on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["FILES_PER_FOLDER", "Shard", "shard_path"]

FILES_PER_FOLDER = 1000


class Shard(NamedTuple):
    """Numbers of a file."""

    chunk: int
    file: int

    def next(self, per_folder: int = FILES_PER_FOLDER) -> Shard:
        """The file after this one."""
        if self.file + 1 < per_folder:
            return Shard(self.chunk, self.file + 1)
        return Shard(self.chunk + 1, 0)


def shard_path(folder: Path, shard: Shard, extension: str) -> Path:
    """Where the file lies."""
    return folder / f"chunk-{shard.chunk:03d}" / f"file-{shard.file:03d}.{extension}"
