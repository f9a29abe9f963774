"""Progress of work on many files, on the terminal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

__all__ = ["Shown", "progress"]


class Shown:
    """What is being worked on."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self._begun = 0

    def next(self, what: str) -> None:
        """The next one begins."""
        self._bar.update(self._task, description=what, completed=self._begun)
        self._begun += 1


@contextmanager
def progress(total: int) -> Generator[Shown]:
    """Show how many of ``total`` are done, where there is more than one and a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=total == 1 or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield Shown(bar, task)
