"""Numbered files of a LeRobot dataset: ``chunk-000/file-000`` and on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

__all__ = ["FILES_PER_FOLDER", "Shard", "link_or_copy", "shard_path", "shards_in"]

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


def shards_in(folder: Path, extension: str) -> list[Path]:
    """All files that lie there, in order."""
    return sorted(folder.glob(f"chunk-*/file-*.{extension}"), key=lambda file: file.parts[-2:])


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or make a copy where the disk has no such thing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
