"""What came out of a validation: checks, what each compared, and where the first fault lies."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from penstock.errors import PenstockError

__all__ = ["VALIDATION_NAME", "Check", "Finding", "Ledger", "Place", "State", "Validation"]

VALIDATION_NAME = "validation.json"
_KEPT = 10
"""Findings of a check that are kept; all are counted."""

State = Literal["passed", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Place:
    """Where something was found; what is not known is left out.

    Attributes:
        file: Path in the dataset.
        episode: Number of the episode.
        frame: Row within the episode, from 0.
        feature: Name of the feature or column.
    """

    file: str = ""
    episode: int | None = None
    frame: int | None = None
    feature: str = ""

    def __str__(self) -> str:
        parts = [
            self.feature,
            f"episode {self.episode}" if self.episode is not None else "",
            f"frame {self.frame}" if self.frame is not None else "",
            self.file,
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Finding:
    """A fault or a doubt, and its place."""

    message: str
    place: Place

    def __str__(self) -> str:
        place = str(self.place)
        return f"{place}: {self.message}" if place else self.message


@dataclass
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        bound: What counts as equal, in words.
        compared: How many of what were compared.
        measured: The worst value of what was measured, by name.
        failures: How many comparisons failed.
        warnings: How many a person should look at.
        first_failures: The first of the failures.
        first_warnings: The first of the warnings.
        skipped: Why it was not carried out.
    """

    name: str
    bound: str = ""
    compared: dict[str, int] = field(default_factory=dict[str, int])
    measured: dict[str, float] = field(default_factory=dict[str, float])
    failures: int = 0
    warnings: int = 0
    first_failures: list[Finding] = field(default_factory=list[Finding])
    first_warnings: list[Finding] = field(default_factory=list[Finding])
    skipped: str = ""

    @property
    def state(self) -> State:
        """What came out."""
        if self.failures:
            return "failed"
        if self.warnings:
            return "warning"
        return "skipped" if self.skipped else "passed"

    def count(self, what: str, number: int = 1) -> None:
        """Note that so many more were compared."""
        self.compared[what] = self.compared.get(what, 0) + number

    def least(self, what: str, value: float) -> None:
        """Note a measurement of which the smallest counts."""
        self.measured[what] = min(self.measured.get(what, value), value)

    def most(self, what: str, value: float) -> None:
        """Note a measurement of which the largest counts."""
        self.measured[what] = max(self.measured.get(what, value), value)

    def fail(
        self,
        message: str,
        *,
        file: str = "",
        episode: int | None = None,
        frame: int | None = None,
        feature: str = "",
        times: int = 1,
    ) -> None:
        """Note a fault, or the first of ``times`` alike."""
        self.failures += times
        _keep(self.first_failures, message, Place(file, episode, frame, feature))

    def warn(
        self,
        message: str,
        *,
        file: str = "",
        episode: int | None = None,
        frame: int | None = None,
        feature: str = "",
        times: int = 1,
    ) -> None:
        """Note a doubt, or the first of ``times`` alike."""
        self.warnings += times
        _keep(self.first_warnings, message, Place(file, episode, frame, feature))

    @contextmanager
    def guard(
        self, *, file: str = "", episode: int | None = None, feature: str = ""
    ) -> Generator[None]:
        """Make whatever goes wrong inside a fault of this check, so that the others go on."""
        try:
            yield
        except PenstockError as error:
            self.fail(error.message, file=file, episode=episode, feature=feature)
        except Exception as error:  # noqa: BLE001 - damaged bytes make parsers fail in many ways
            self.fail(f"cannot be read: {told(error)}", file=file, episode=episode, feature=feature)


class Ledger:
    """Checks in the order in which they were begun."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def open(self, name: str, bound: str = "") -> Check:
        """Begin a check."""
        check = Check(name, bound)
        self.checks.append(check)
        return check

    def skip(self, name: str, why: str) -> None:
        """Note a check that cannot be carried out."""
        self.open(name).skipped = why

    @contextmanager
    def check(self, name: str, bound: str = "") -> Generator[Check]:
        """Begin a check and guard it."""
        check = self.open(name, bound)
        with check.guard():
            yield check


@dataclass
class Validation:
    """What came out of all checks.

    Attributes:
        dataset: Folder of the dataset.
        full: Whether all frames were decoded, or a sample.
        checks: In the order of the work.
        episodes: How many there are.
        frames: Rows in all.
        seconds: How long it took.
        pictures: Files that were drawn.
    """

    dataset: str
    full: bool
    checks: list[Check]
    episodes: int = 0
    frames: int = 0
    seconds: float = 0.0
    pictures: list[str] = field(default_factory=list[str])

    @property
    def state(self) -> State:
        """The worst of all."""
        states = {check.state for check in self.checks}
        worst: tuple[State, ...] = ("failed", "warning", "passed", "skipped")
        return next(state for state in worst if state in states or state == "skipped")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.state != "failed"

    def to_json(self) -> str:
        """All of it as JSON text."""
        content = {
            "dataset": self.dataset,
            "state": self.state,
            "full": self.full,
            "episodes": self.episodes,
            "frames": self.frames,
            "seconds": self.seconds,
            "pictures": self.pictures,
            "checks": [{"state": check.state, **asdict(check)} for check in self.checks],
        }
        return json.dumps(content, indent=2)

    def write(self, folder: Path) -> Path:
        """Write ``validation.json`` into ``folder``, whole or not at all."""
        path = folder / VALIDATION_NAME
        part = path.with_name(f".{VALIDATION_NAME}.part")
        try:
            part.write_text(self.to_json(), "utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path


def _keep(findings: list[Finding], message: str, place: Place) -> None:
    if len(findings) < _KEPT:
        findings.append(Finding(message, place))


def told(error: Exception) -> str:
    """An error of a library in a line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
