"""What is known of a stored checkpoint, and the names it goes by.

A *run* is one training run and holds one checkpoint per *step*. A *tag* (``best``, ``final``) is a
name that points at one step of its run and can move. ``latest`` is no tag: it means the newest
step that is intact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.chunks import Digest
from penstock.errors import InvalidInput

__all__ = [
    "LATEST",
    "CheckpointInfo",
    "RunInfo",
    "UploadRequest",
    "UploadState",
    "check_name",
    "check_run",
    "check_step",
    "check_tag",
    "is_name",
]

LATEST = "latest"
"""Stands for the newest intact step where a tag may stand; never a tag itself."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_STEP = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A stored checkpoint.

    Attributes:
        run: Name of the run.
        step: Step of the run.
        digest: Size and hash of the file.
        raw_size_bytes: Of its tensors before encoding.
        created_unix_ms: When it was committed.
        tags: Names that point at it now, sorted.
        metrics: As the writer gave them.
        base_step: Step of the same run that its content refers to; None if it is whole in itself.
        pinned: Kept until it is let go, whatever retention says.
        verified_unix_ms: When every byte was last checked; 0 if it never was.
        damaged: The last check found damage.
    """

    run: str
    step: int
    digest: Digest
    raw_size_bytes: int
    created_unix_ms: int
    tags: tuple[str, ...]
    metrics: Mapping[str, float]
    base_step: int | None = None
    pinned: bool = False
    verified_unix_ms: int = 0
    damaged: bool = False

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.digest.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run: how many checkpoints, the highest step, bytes on disk."""

    name: str
    checkpoints: int
    latest_step: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """What a writer announces before it uploads.

    Attributes:
        run: Name of the run.
        step: Step of the run.
        digest: Size and hash of the file that will come.
        raw_size_bytes: Of its tensors before encoding.
        fencing_token: As an earlier upload to this run gave it; 0 takes the run over.
        tags: Names that will point at this step once it is committed.
        metrics: Numbers kept beside it.
    """

    run: str
    step: int
    digest: Digest
    raw_size_bytes: int
    fencing_token: int
    tags: tuple[str, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """An upload under way.

    Attributes:
        upload_id: Names it.
        fencing_token: To be given with the writer's next upload to this run.
        received_bytes: Where to go on.
        committed: The same content is stored already; a commit only sets tags and metrics.
    """

    upload_id: str
    fencing_token: int
    received_bytes: int
    committed: bool


def check_run(run: str) -> str:
    """Return ``run`` if it is a valid name.

    Raises:
        InvalidInput: It is not; the message says what is.
    """
    return check_name(run, "run")


def check_tag(tag: str) -> str:
    """Return ``tag`` if it is a valid name, not ``latest`` and no number.

    Raises:
        InvalidInput: It is not; the message says what is.
    """
    if tag == LATEST:
        raise InvalidInput(
            f"{LATEST!r} always means the newest intact step and cannot be a tag", field="tags"
        )
    if tag.isdecimal():
        raise InvalidInput(f"tag {tag!r} would be taken for a step: add a letter", field="tags")
    return check_name(tag, "tags")


def check_step(step: int) -> int:
    """Return ``step`` if it can be one.

    Raises:
        InvalidInput: It is negative or has more than 63 bits.
    """
    if not 0 <= step <= _MAX_STEP:
        raise InvalidInput(f"step {step} is not between 0 and 2**63 - 1", field="step")
    return step


def is_name(name: str) -> bool:
    """Whether a run or tag may be called so."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, field: str) -> str:
    """Return ``name`` if a run, tag, stream or the like may be called so.

    Raises:
        InvalidInput: It may not; the message says what may.
    """
    if not is_name(name):
        raise InvalidInput(
            f"{field}: {name!r:.160} is no valid name: use letters, digits, '.', '_' and '-', at "
            "most 128, starting with a letter or digit",
            field=field,
        )
    return name
