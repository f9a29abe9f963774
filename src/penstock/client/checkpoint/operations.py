"""What a client needs of a checkpoint store, however it is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from penstock.checkpoints import CheckpointInfo, RunInfo, UploadRequest, UploadState
from penstock.retention import Collected, RetentionPolicy

__all__ = ["Begin", "CheckpointStore"]

Begin = Callable[[Callable[[int], UploadState]], UploadState]
"""Calls what it is given with the writer's fencing token, and remembers the answered one."""


class CheckpointStore(Protocol):
    """What a client needs of a store."""

    def upload(self, request: UploadRequest, file: BinaryIO, begin: Begin) -> CheckpointInfo:
        """Store the content of ``file``; when this returns it is durable."""
        ...

    def open_content(self, info: CheckpointInfo) -> BinaryIO:
        """The content of a checkpoint, seekable."""
        ...

    def open_parts(self, info: CheckpointInfo) -> BinaryIO:
        """The same, fetched as it is read; only hashes of chunks tell whether it is intact."""
        ...

    def get(self, run: str, which: int | str) -> CheckpointInfo:
        """Look up a step, a tag or ``latest``."""
        ...

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run."""
        ...

    def runs(self) -> list[RunInfo]:
        """All runs."""
        ...

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint."""
        ...

    def pin(self, run: str, which: int | str, *, pinned: bool) -> CheckpointInfo:
        """Keep a checkpoint until it is let go, or let it go."""
        ...

    def collect(
        self, run: str | None, policy: RetentionPolicy | None, *, dry_run: bool
    ) -> Collected:
        """Remove what a policy does not keep, or say what that would be."""
        ...

    def verify(self, run: str, which: int | str) -> tuple[CheckpointInfo, int]:
        """Check every byte where it is stored; gives the number of chunks too."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...
