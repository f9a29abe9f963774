"""What a conversion did, kept as ``conversion.json`` beside what it made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock_converter.mapping.model import Mapping
from penstock_converter.recordings.discovery import bag_files

__all__ = [
    "FORMAT",
    "REPORT_NAME",
    "BagOutcome",
    "Outcome",
    "Progress",
    "fingerprint",
    "identify",
    "read_outcome",
    "write_outcome",
]

REPORT_NAME = "conversion.json"
FORMAT = 2
"""Grows when the same recordings and mapping give other bytes."""

BagState = Literal["waiting", "running", "converted", "refused"]


@dataclass
class BagOutcome:
    """What became of one recording.

    Attributes:
        bag: Its name.
        identity: Digest of the names, sizes and times of its files.
        state: Where it stands.
        episode: Number of its first episode; -1 without one.
        episodes: How many it became.
        frames: Rows of all of them.
        images: Camera images of all of them.
        next_observation: Whether the last HDF5 file has an observation after the last row.
        dropped: Frames left out, by reason.
        warnings: What a person should look at.
        reason: Stable identifier of the refusal.
        error: Why it was refused.
    """

    bag: str
    identity: str = ""
    state: BagState = "waiting"
    episode: int = -1
    episodes: int = 0
    frames: int = 0
    images: int = 0
    next_observation: bool = False
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    reason: str = ""
    error: str = ""


@dataclass
class Progress:
    """Where a conversion stands.

    Attributes:
        bags: All recordings.
        frames_done: Frames so far.
        frames_total: Frames in all, estimated from file sizes; exact at the end.
        images_per_s: Camera images a second, over all cameras.
        eta_s: Seconds left; negative while unknown.
        fraction: Share of the work that is done, 0 to 1.
        peak_rss_bytes: Largest memory of the process so far.
    """

    bags: list[BagOutcome]
    frames_done: int = 0
    frames_total: int = 0
    images_per_s: float = 0.0
    eta_s: float = -1.0
    fraction: float = 0.0
    peak_rss_bytes: int = 0


@dataclass
class Outcome:
    """What a conversion did.

    Attributes:
        fingerprint: Of recordings, mapping and format: equal ones give equal datasets.
        bags: What became of each recording.
        frames: Rows in all.
        images: Camera images in all.
        seconds: How long it took.
        peak_rss_bytes: Largest memory of the process.
        mapping: The mapping with all its defaults.
        writer: What appending needs; see ``WriterState``.
        reused: Whether the dataset was there already.
    """

    fingerprint: str
    bags: list[BagOutcome]
    frames: int = 0
    images: int = 0
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    mapping: dict[str, Any] = field(default_factory=dict)
    writer: dict[str, Any] = field(default_factory=dict)
    reused: bool = False

    @property
    def converted(self) -> list[BagOutcome]:
        """Recordings that became episodes."""
        return [bag for bag in self.bags if bag.state == "converted"]

    @property
    def refused(self) -> list[BagOutcome]:
        """Recordings that did not."""
        return [bag for bag in self.bags if bag.state == "refused"]


def identify(bag: Path) -> str:
    """Digest of a recording: its name, and names, sizes and times of modification of its files."""
    stats = [(file.name, file.stat()) for file in bag_files(bag)]
    return _digest([bag.name, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]])


def fingerprint(identities: Sequence[str], mapping: Mapping) -> str:
    """Digest of all that decides the bytes of a dataset; ``identities`` as ``identify`` gives."""
    return _digest([FORMAT, mapping.without_speed(), *identities])


def _digest(content: list[Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write ``conversion.json`` into ``folder``."""
    content = {"format": FORMAT, **asdict(outcome)}
    del content["reused"]
    (folder / REPORT_NAME).write_text(json.dumps(content, indent=2), "utf-8")


def read_outcome(folder: Path) -> Outcome | None:
    """What ``conversion.json`` of ``folder`` says; None if there is none that can be read."""
    try:
        content = json.loads((folder / REPORT_NAME).read_text("utf-8"))
        del content["format"]
        bags = [BagOutcome(**bag) for bag in content.pop("bags")]
        return Outcome(bags=bags, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
