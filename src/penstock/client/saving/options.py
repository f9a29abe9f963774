"""What a saver is asked for, checked, and what it reports in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from penstock.checkpoints import check_run
from penstock.container import Profile, check_profile
from penstock.errors import InvalidInput
from penstock.targets import Target

__all__ = [
    "SaverReport",
    "WhenFull",
    "check_queue",
    "check_rebase",
    "check_target",
    "profile_of",
]

WhenFull = Literal["block", "drop-oldest", "raise"]

_DELTAS_PER_BASE = 8


@dataclass(frozen=True, slots=True)
class SaverReport:
    """What became of the checkpoints that were handed over: steps, or files.

    Attributes:
        saved: Durable in the store.
        dropped: Given up for newer ones (``when_full="drop-oldest"``).
        failed: Refused, or the store stayed away; the errors were raised.
        unfinished: Still waiting or being saved.
    """

    saved: tuple[int | Path, ...]
    dropped: tuple[int | Path, ...]
    failed: tuple[int | Path, ...]
    unfinished: tuple[int | Path, ...]


def check_target(target: str | Target | None, run: str | None) -> str:
    """The name of the run; empty without a target.

    Raises:
        InvalidInput: It is not valid.
    """
    if target is None:
        if run is not None:
            raise InvalidInput(f"run={run!r} without a target: give both or none", field="run")
        return ""
    if run is None:
        raise InvalidInput(f"target {target} without a run: name it", field="run")
    return check_run(run)


def check_queue(max_queue_size: int, when_full: str) -> None:
    """Check the queue's length and what to do when it is full.

    Raises:
        InvalidInput: It is not valid.
    """
    if max_queue_size < 1:
        raise InvalidInput(
            f"max_queue_size={max_queue_size}: at least 1 must fit", field="max_queue_size"
        )
    if when_full not in get_args(WhenFull):
        raise InvalidInput(
            f"when_full={when_full!r}: choose one of {', '.join(get_args(WhenFull))}",
            field="when_full",
        )


def profile_of(compress: Profile | bool) -> Profile:  # noqa: FBT001 - as its users know it
    """The profile that ``compress`` asks for.

    Raises:
        InvalidInput: It is not valid.
    """
    if isinstance(compress, bool):
        compress = "small" if compress else "none"
    return check_profile(compress)


def check_rebase(rebase_every: int | None, profile: Profile) -> int:
    """Checkpoints that share a base, by default those of the profile.

    Raises:
        InvalidInput: It is not valid.
    """
    if rebase_every is None:
        return _DELTAS_PER_BASE if profile == "delta" else 1
    if rebase_every < 1:
        raise InvalidInput(
            f"rebase_every={rebase_every}: 1 means that each is whole", field="rebase_every"
        )
    return rebase_every
