"""What was found out about a file: every check with its outcome and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from penstock.errors import DataFault

__all__ = ["CountedWarning", "Finding", "Findings", "Level", "WarningCount"]


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """The file is served; the user should know."""
    FAIL = "fail"
    """The file is refused."""


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        level: Whether the file is served in spite of it.
        check: What was looked at, a few words.
        message: Dataset, value and what was expected.
        remedy: What the user can do; empty when all is well.
        reason: Stable identifier of a fault, e.g. ``ROW_COUNT_MISMATCH``.
        dataset: Path of the dataset in the file, where there is one.
    """

    level: Level
    check: str
    message: str
    remedy: str = ""
    reason: str = ""
    dataset: str = ""


@dataclass
class Findings:
    """All findings about one file, in the order of the checks."""

    file: str
    entries: list[Finding] = field(default_factory=list[Finding])

    def ok(self, check: str, message: str, *, dataset: str = "") -> None:
        """Note that a check came out well."""
        self.entries.append(Finding(Level.OK, check, message, dataset=dataset))

    def warn(
        self, check: str, message: str, *, remedy: str, reason: str, dataset: str = ""
    ) -> None:
        """Note something the user should know; the file is served."""
        self.entries.append(Finding(Level.WARN, check, message, remedy, reason, dataset))

    def fail(
        self, check: str, message: str, *, remedy: str, reason: str, dataset: str = ""
    ) -> None:
        """Note a fault; the file is refused."""
        self.entries.append(Finding(Level.FAIL, check, message, remedy, reason, dataset))

    def withdraw(self, *reasons: str) -> None:
        """Take back warnings of these reasons, when a closer look is about to replace them."""
        self.entries = [
            entry
            for entry in self.entries
            if entry.level is not Level.WARN or entry.reason not in reasons
        ]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that do not keep the file from being served."""
        return [entry for entry in self.entries if entry.level is Level.WARN]

    @property
    def faults(self) -> list[Finding]:
        """Findings that keep the file from being served."""
        return [entry for entry in self.entries if entry.level is Level.FAIL]

    def raise_fault(self) -> None:
        """Raise the first fault, if there is one.

        Raises:
            DataFault: With the fault's reason; the message names file, dataset, value and remedy.
        """
        if not self.faults:
            return
        first, others = self.faults[0], len(self.faults) - 1
        more = f" ({others} more faults: penstock doctor {self.file})" if others else ""
        raise DataFault(
            f"{self.file}: {first.message}: {first.remedy}{more}",
            reason=first.reason,
            metadata={"file": self.file, "dataset": first.dataset},
        )


@dataclass(frozen=True)
class CountedWarning:
    """A kind of warning among many files.

    Attributes:
        count: Files that have it.
        first: The first of them.
        example: What was found there.
    """

    count: int
    first: str
    example: Finding


class WarningCount:
    """Counts files by the reasons of their warnings, and keeps an example of each."""

    def __init__(self) -> None:
        self._kinds: dict[str, CountedWarning] = {}

    def add(self, file: str, warnings: Iterable[Finding]) -> None:
        """Count one file, once for each reason."""
        for reason, warning in {warning.reason: warning for warning in warnings}.items():
            known = self._kinds.get(reason, CountedWarning(0, file, warning))
            self._kinds[reason] = replace(known, count=known.count + 1)

    def kinds(self) -> list[CountedWarning]:
        """One entry for each reason, the most frequent first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.count)
