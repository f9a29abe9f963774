"""Where episodes begin and end in a file, and which of their rows are servable transitions.

A row is servable when it has a next observation within its episode, or is terminal. As a row
before the end of an episode always has one, only the last row of an episode can fall away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import Outcome
from penstock_sampler.checks.findings import Findings
from penstock_sampler.sources.column import Column
from penstock_sampler.sources.layout import FileLayout
from penstock_sampler.sources.opening import Hdf5File

__all__ = ["FileEpisodes", "read_episodes", "row_blocks", "segment"]

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class FileEpisodes:
    """Episodes of one file that have at least one servable transition.

    Attributes:
        number: ``(E,) int64`` place of the episode among all episodes of the file.
        first_row: ``(E,) int64``.
        length: ``(E,) int32`` servable transitions.
        outcome: ``(E,) uint8``, see :class:`penstock.dataset.Outcome`.
        dropped: ``(D,) int64`` rows that are not servable, ascending.
    """

    number: NDArray[np.int64]
    first_row: NDArray[np.int64]
    length: NDArray[np.int32]
    outcome: NDArray[np.uint8]
    dropped: NDArray[np.int64]


def segment(
    rows: int, observations: int, terminal: NDArray[np.int64], cut: NDArray[np.int64]
) -> FileEpisodes:
    """Divide ``rows`` rows into episodes.

    Args:
        rows: N, at least 1.
        observations: N or N + 1.
        terminal: Rows at which the environment ended the episode, ascending.
        cut: Rows after which an episode was cut, ascending; may share rows with ``terminal``.
    """
    if all(len(given) == 0 or given[0] == rows - 1 for given in (terminal, cut)):
        return _one_episode(rows, observations, terminal=len(terminal) > 0, cut=len(cut) > 0)
    ends = np.unique(np.concatenate([terminal, cut, [rows - 1]])).astype(np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1)).astype(np.int64)
    is_terminal = _among(ends, terminal)
    is_cut = _among(ends, cut)
    servable = is_terminal.copy()
    # Observation N follows the last action; inside the file, row i + 1 starts the next episode.
    servable[-1] |= observations > rows
    length = ends - starts + servable
    kept = length > 0
    outcome = np.full(len(ends), int(Outcome.OPEN), np.uint8)
    outcome[is_cut] = int(Outcome.TRUNCATED)
    outcome[is_terminal] = int(Outcome.TERMINAL)
    return FileEpisodes(
        number=np.flatnonzero(kept),
        first_row=starts[kept],
        length=length[kept].astype(np.int32),
        outcome=outcome[kept],
        dropped=ends[~servable],
    )


def _one_episode(rows: int, observations: int, *, terminal: bool, cut: bool) -> FileEpisodes:
    """What most recorders write, for which the arithmetic of many takes longer than reading it."""
    servable = terminal or observations > rows
    length = rows - 1 + servable
    outcome = Outcome.TERMINAL if terminal else Outcome.TRUNCATED if cut else Outcome.OPEN
    kept = 1 if length else 0
    return FileEpisodes(
        number=np.zeros(kept, np.int64),
        first_row=np.zeros(kept, np.int64),
        length=np.full(kept, length, np.int32),
        outcome=np.full(kept, int(outcome), np.uint8),
        dropped=np.empty(0, np.int64) if servable else np.array([rows - 1], np.int64),
    )


def _among(rows: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``rows`` are in ``ascending``; on few rows an order faster than ``np.isin``."""
    if not len(ascending):
        return np.zeros(len(rows), np.bool_)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    return ascending[places] == rows


def read_episodes(file: Hdf5File, layout: FileLayout, findings: Findings) -> FileEpisodes | None:
    """Read the flags of ``file`` block by block and divide it into episodes.

    Returns:
        The episodes, or None when a finding is a fault.

    Raises:
        OSError: The flags cannot be read.
    """
    terminal = _flagged(file, layout.terminal, findings)
    flagged = [_flagged(file, path, findings) for path in layout.cuts]
    explicit = _explicit_ends(file, layout, findings)
    if terminal is None or explicit is None or any(rows is None for rows in flagged):
        return None
    cut = np.sort(np.concatenate([explicit, *(rows for rows in flagged if rows is not None)]))
    found = segment(layout.rows, layout.observations, terminal, cut)
    if len(found.length) == 0:
        findings.fail(
            "episodes",
            f"none of {layout.rows} rows has a next observation or is terminal",
            remedy="record longer episodes, or N+1 observations",
            reason="NO_TRANSITIONS",
            dataset=layout.terminal,
        )
        return None
    findings.ok(
        "episodes",
        f"{len(found.length)} episodes, {int(found.length.sum())} servable transitions, "
        f"{len(found.dropped)} rows without a next observation",
    )
    if len(terminal) == 0 and len(cut) == 0:
        findings.warn(
            "episodes",
            f"no row of {layout.terminal} is set and nothing else ends an episode: the file is one "
            "episode whose end is unknown",
            remedy="check that the recorder writes the end of episodes",
            reason="NO_TERMINALS",
            dataset=layout.terminal,
        )
    return found


def row_blocks(column: Column, rows: int, block_rows: int) -> Iterator[tuple[int, int]]:
    """Row ranges of a bounded size that cover ``rows`` rows and do not split a chunk."""
    if column.chunks:
        step = int(column.chunks[0])
        block_rows = max(step, block_rows // step * step)
    for start in range(0, rows, block_rows):
        yield start, min(start + block_rows, rows)


def _flagged(file: Hdf5File, path: str, findings: Findings) -> NDArray[np.int64] | None:
    """Rows whose flag is set."""
    column = file.column(path)
    found: list[NDArray[np.int64]] = []
    for start, stop in row_blocks(column, column.rows, _BLOCK_ROWS):
        values = column.read(start, stop).reshape(-1)
        odd = np.flatnonzero((values != 0) & (values != 1))
        if len(odd):
            row = int(odd[0])
            findings.fail(
                path,
                f"{path}[{start + row}] is {values[row]}: expected 0 or 1",
                remedy="write flags",
                reason="WRONG_VALUE",
                dataset=path,
            )
            return None
        found.append(np.flatnonzero(values) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _explicit_ends(
    file: Hdf5File, layout: FileLayout, findings: Findings
) -> NDArray[np.int64] | None:
    """Last row of each episode that ``episode_ends`` names."""
    if not layout.episode_ends:
        return np.empty(0, np.int64)
    column = file.column(layout.episode_ends)
    # More ends than rows cannot ascend, and must not be read.
    ends = (
        column.read(0, column.rows).astype(np.int64)
        if 0 < column.rows <= layout.rows
        else np.empty(0, np.int64)
    )
    ascending = len(ends) > 0 and bool((np.diff(ends, prepend=0) > 0).all())
    if not ascending or int(ends[-1]) != layout.rows:
        shown = f"ends with {int(ends[-1])}" if len(ends) else f"has {column.rows} entries"
        findings.fail(
            layout.episode_ends,
            f"{layout.episode_ends} {shown}"
            + ("" if ascending or not len(ends) else " and does not ascend from above 0")
            + f": expected exclusive end rows, strictly ascending, the last one {layout.rows} (N)",
            remedy="write the running total of the episodes' lengths",
            reason="WRONG_VALUE",
            dataset=layout.episode_ends,
        )
        return None
    return ends - 1
