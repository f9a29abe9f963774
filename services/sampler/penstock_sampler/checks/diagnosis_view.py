"""How diagnoses look: text as they come in, or a JSON array; and how far the work has come."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from rich.tree import Tree

from penstock_sampler.checks.diagnosis import Diagnosis
from penstock_sampler.checks.findings import Findings, Level, WarningCount

__all__ = ["DoctorView", "JsonView", "TextView", "follow"]

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


Item = TypeVar("Item")


class DoctorView(Protocol):
    """Shows diagnoses one by one, so that none of them has to wait or to be kept."""

    console: Console

    def show(self, diagnosis: Diagnosis) -> None:
        """Show one diagnosis."""
        ...

    def close(self, comparison: Diagnosis | None, misfits: int) -> None:
        """Show what the comparison of files found, and end.

        Args:
            comparison: Of all files that could be served; None when nothing was found.
            misfits: Files among them that would be refused beside the others.
        """
        ...


class TextView:
    """Trees, findings and verdicts on standard output, then a summary if there were several."""

    def __init__(self) -> None:
        self.console = Console()
        self._files, self._refused, self._warnings = 0, 0, 0
        self._kinds = WarningCount()

    def show(self, diagnosis: Diagnosis) -> None:
        """Show one file."""
        findings = diagnosis.findings
        self._files += 1
        self._refused += not diagnosis.served
        self._warnings += len(findings.warnings)
        self._kinds.add(findings.file, findings.warnings)
        self.console.print(_tree(diagnosis))
        self._show_findings(findings)
        verdict = "would be served" if diagnosis.served else "would be REFUSED"
        count = len(findings.warnings)
        text = f"  {verdict}" + (f", {_counted(count, 'warning')}" if count else "")
        self.console.print(text, style="bold")

    def close(self, comparison: Diagnosis | None, misfits: int) -> None:
        """Show what files have in common, and count."""
        if self._files <= 1:
            return
        if comparison is not None:
            findings = comparison.findings
            self._warnings += len(findings.warnings)
            self.console.print(Text(f"files below {findings.file} compared", style="bold"))
            self._show_findings(findings)
        refused = self._refused + misfits
        self.console.print(
            f"{self._files} files: {self._files - refused} fit to be served, {refused} REFUSED, "
            f"{_counted(self._warnings, 'warning')}",
            style="bold",
            highlight=False,
        )
        for kind in self._kinds.kinds():
            line = (
                f"  {kind.example.reason} in {_counted(kind.count, 'file')}, first in {kind.first}"
            )
            self.console.print(Text(line), soft_wrap=True)

    def _show_findings(self, findings: Findings) -> None:
        for finding in findings.entries:
            line = Text(f"  {finding.level.value:<5}", style=_STYLES[finding.level])
            line.append(f"{finding.check}: {finding.message}", style="default")
            if finding.remedy:
                line.append(f"\n        what to do: {finding.remedy}", style="cyan")
            self.console.print(line, soft_wrap=True)


class JsonView:
    """A JSON array on standard output, an element for each file; see docs/data-layout.md.

    An element waits for the next one, as a comma stands between them.
    """

    def __init__(self) -> None:
        self.console = Console()
        self._before = "["

    def show(self, diagnosis: Diagnosis) -> None:
        """Write one element."""
        if self._before != "[":
            self._before += ","
        self._write(self._before)
        self._before = textwrap.indent(json.dumps(_as_json(diagnosis), indent=2), "  ")

    def close(self, comparison: Diagnosis | None, misfits: int) -> None:  # noqa: ARG002 - told by it
        """Write what the comparison found as an element about the folder, and end the array."""
        if comparison is not None:
            self.show(comparison)
        self._write(self._before)
        self._write("]")

    def _write(self, line: str) -> None:
        # As it is, without colours: programs read it.
        self.console.print(Text(line), soft_wrap=True)


def follow(view: DoctorView, files: Sequence[Item]) -> Iterator[Item]:
    """Give ``files`` one by one, under a bar where somebody sees it.

    The bar is on standard error; where reports go to a terminal it is below them, as two writers
    would spoil each other's lines.
    """
    console = view.console if view.console.is_terminal else Console(stderr=True)
    bar = Progress(
        TextColumn("examining files"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=len(files) <= 1 or not console.is_terminal,
    )
    with bar:
        yield from bar.track(files)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _as_json(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "file": str(Path(diagnosis.findings.file)),
        "served": diagnosis.served,
        "findings": [asdict(finding) for finding in diagnosis.findings.entries],
        "tree": [asdict(entry) for entry in diagnosis.tree],
    }


def _tree(diagnosis: Diagnosis) -> Tree:
    root = Tree(f"[bold]{escape(diagnosis.findings.file)}[/bold]")
    branches = {"": root}
    for entry in diagnosis.tree:
        parent, _, name = entry.path.rpartition("/")
        holder = branches.get(parent, root)
        branches[entry.path] = holder.add(f"{escape(name)}  [dim]{escape(entry.description)}[/dim]")
    return root
