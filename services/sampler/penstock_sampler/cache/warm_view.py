"""How caching ahead looks on a terminal: a bar with rate and time left, then what came of it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from penstock_sampler.cache.building import Outcome
from penstock_sampler.cache.warming import Warming, WarmReport
from penstock_sampler.serving.status import CacheStatus

__all__ = ["show_progress", "show_report"]

_MB = 10**6

_TEXTS = {
    Outcome.BUILT: "cached now",
    Outcome.THERE: "were cached already",
    Outcome.ELSEWHERE: "are being cached by another process",
    Outcome.OUTSIDE: "keep frames in other files and are not cached",
    Outcome.NO_ROOM: "[bold red]found no room[/bold red] (cache_bytes sets the limit)",
    Outcome.STOPPED: "were stopped",
}


def show_progress(console: Console, warming: Warming) -> WarmReport:
    """Run ``warming`` below a bar, on a terminal; sizes are those of frames before encoding."""
    columns = (
        TextColumn("caching frames"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=warming.total_bytes)

        def progress(size_bytes: int) -> None:
            # What is passed over is no speed; ``update`` would forget the one that was measured.
            bar.tasks[0].total = warming.total_bytes
            bar.advance(task, size_bytes)

        return warming.run(progress)


def show_report(
    console: Console, report: WarmReport, status: CacheStatus, refused: int = 0
) -> None:
    """One line for each outcome and each fault, and how full the cache is.

    Args:
        console: Where to.
        report: How it went.
        status: The cache now.
        refused: Recordings that are no part of the dataset; the log says why.
    """
    for outcome, text in _TEXTS.items():
        if report.outcomes.get(outcome):
            console.print(f"{report.outcomes[outcome]} files {text}", highlight=False)
    if refused:
        console.print(
            f"{refused} files are [bold red]refused[/bold red] and not cached "
            "(penstock doctor says why)",
            highlight=False,
        )
    for fault in report.faults:
        console.print(f"[bold red]not cached[/bold red] {escape(fault)}", soft_wrap=True)
    console.print(
        f"the frame cache holds {status.size_bytes // _MB} of {status.limit_bytes // _MB} MB",
        highlight=False,
    )
