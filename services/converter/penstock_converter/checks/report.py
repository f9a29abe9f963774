"""A validation as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_converter.checks.findings import Check, Finding, State, Validation

__all__ = ["show_findings", "show_validation"]

_COLOURS = {"passed": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
_SHOWN = 3


def show_validation(console: Console, validation: Validation) -> None:
    """Print all checks, and where the first faults lie."""
    title = f"{validation.dataset}: {validation.episodes} episodes, {validation.frames} frames"
    table = Table(title=escape(title))
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("compared", overflow="fold")
    for check in validation.checks:
        table.add_row(escape(check.name), _coloured(check.state), escape(_compared(check)))
    console.print(table)
    # Below the table, so that paths and values can be copied.
    show_findings(console, validation)


def show_findings(console: Console, validation: Validation) -> None:
    """Print where the first faults lie, and a line about all checks."""
    for check in validation.checks:
        _show_findings(console, check.name, "failed", check.first_failures, check.failures)
        _show_findings(console, check.name, "warning", check.first_warnings, check.warnings)
    if validation.pictures:
        folder = Path(validation.pictures[0]).parent
        console.print(
            f"[dim]{len(validation.pictures)} pictures in {escape(str(folder))}[/dim]",
            soft_wrap=True,
        )
    states = [check.state for check in validation.checks]
    how = "all frames" if validation.full else "all rows and a sample of the images"
    counted = ", ".join(
        f"{states.count(state)} {told}"
        for state, told in (("failed", "failed"), ("warning", "to look at"), ("skipped", "skipped"))
    )
    console.print(
        f"{len(states)} checks of {how} in {validation.seconds:.1f} s: {counted}",
        style=f"bold {_COLOURS[validation.state]}",
        soft_wrap=True,
    )


def _show_findings(
    console: Console, name: str, state: State, findings: Sequence[Finding], count: int
) -> None:
    for finding in findings[:_SHOWN]:
        console.print(f"{_coloured(state)} {name}: {escape(str(finding))}", soft_wrap=True)
    more = count - min(len(findings), _SHOWN)
    if more > 0:
        console.print(f"[dim]and {more} more of {name}[/dim]", soft_wrap=True)


def _coloured(state: State) -> str:
    return f"[{_COLOURS[state]}]{state}[/{_COLOURS[state]}]"


def _compared(check: Check) -> str:
    if check.state == "skipped":
        return check.skipped
    counts = [f"{number} {what}" for what, number in check.compared.items()]
    measured = [f"{what} {value:.4g}" for what, value in check.measured.items()]
    return "; ".join([", ".join(counts), *measured] if counts else measured)
