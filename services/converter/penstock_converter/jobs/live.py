"""What the terminal shows while recordings are converted: a bar, and a table of recordings."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from penstock_converter.jobs.outcome import BagOutcome
from penstock_converter.jobs.outcome import Progress as State

__all__ = ["LiveReport"]

_ROWS = 12
_COLOURS = {"running": "cyan", "converted": "green", "refused": "red", "waiting": "dim"}


class LiveReport:
    """A bar and the recordings at work or just done; a context manager.

    Args:
        console: Where to; nothing moves where it is no terminal.
        recordings: How many there are.
    """

    def __init__(self, console: Console, recordings: int) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("converting"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._bar = self._bars.add_task("", total=1.0, note=f"{recordings} recordings")
        self._live = Live(self._bars, console=console, refresh_per_second=5)
        # A file gets the last line only: a table for each look would fill it.
        self._tables = console.is_terminal

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.update(self._bars)
        self._live.stop()
        if not self._tables:
            # What is no terminal gets the bar without an end of line.
            self._console.print()

    def show(self, state: State) -> None:
        """Show where the conversion stands."""
        ended = sum(bag.state in ("converted", "refused") for bag in state.bags)
        left = f", {state.eta_s:.0f} s left" if state.eta_s > 0 else ""
        note = (
            f"{ended}/{len(state.bags)} recordings, {state.frames_done} frames, "
            f"{state.images_per_s:.0f} images/s, {state.peak_rss_bytes / 1e6:.0f} MB{left}"
        )
        self._bars.update(self._bar, completed=state.fraction, note=note)
        if self._tables:
            self._live.update(Group(self._bars, recordings_table(state.bags)))

    def finish(self, note: str) -> None:
        """Fill the bar."""
        self._bars.update(self._bar, completed=1.0, note=note)


def recordings_table(bags: list[BagOutcome]) -> Table:
    """Recordings at work, then those that ended last, as many as fit."""
    table = Table(box=None, pad_edge=False)
    for column in ("recording", "state", "frames", "left out", "note"):
        table.add_column(column, justify="right" if column in ("frames", "left out") else "left")
    running = [bag for bag in bags if bag.state == "running"]
    ended = [bag for bag in bags if bag.state in ("converted", "refused")]
    shown = [*running[:_ROWS], *reversed(ended)][:_ROWS]
    for bag in shown:
        note = bag.reason or "; ".join(bag.warnings)
        table.add_row(
            escape(bag.bag),
            f"[{_COLOURS[bag.state]}]{bag.state}[/]",
            str(bag.frames),
            str(sum(bag.dropped.values())),
            escape(note[:80]),
        )
    hidden = len(bags) - len(shown)
    if hidden:
        table.add_row(f"[dim]and {hidden} more[/]")
    return table
