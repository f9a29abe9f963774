"""Checks of numbers: finite, and with the statistics that the dataset states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_converter.checks.dataset import Dataset
from penstock_converter.checks.findings import Check, Ledger
from penstock_converter.checks.tables import column_batches
from penstock_converter.outputs.shards import Shard
from penstock_converter.outputs.spool import Spool
from penstock_converter.outputs.statistics import QUANTILES, Statistics, of_columns

__all__ = ["check_numbers", "stated_array"]

_EXACT, _ROUNDED = 1e-9, 1e-4
"""Relative to the largest value: of statistics in float64, and of those that lerobot rounds."""

_BIN_EDGE = 1e-9


def check_numbers(dataset: Dataset, ledger: Ledger) -> None:
    """Read every column of numbers once; memory for one number of all rows."""
    ours = dataset.outcome is not None
    bound = (
        f"all within {_EXACT:g} of the largest value"
        if ours
        else f"within {_ROUNDED:g} of the largest value, quantiles only in order (no "
        "conversion.json: lerobot estimates them)"
    )
    finite = ledger.open("finite numbers")
    statistics = ledger.open("statistics of numbers", bound)
    if not dataset.data_shards():
        finite.skipped = statistics.skipped = "no episode names a data file"
        return
    with TemporaryDirectory(prefix="penstock-validate-") as scratch:
        for name in dataset.numbers:
            with statistics.guard(feature=name):
                _Column(dataset, name, Path(scratch), finite, statistics).check()


class _Column:
    def __init__(
        self, dataset: Dataset, name: str, scratch: Path, finite: Check, statistics: Check
    ) -> None:
        self._dataset, self._name = dataset, name
        self._finite, self._statistics = finite, statistics
        # Rows of matrices have statistics by their last axis, as lerobot takes them.
        self._last = dataset.shape(name)[-1]
        self._lines = dataset.width(name) // self._last
        self._tolerance = _EXACT if dataset.outcome is not None else _ROUNDED
        self._path = scratch / "column"
        self._spool: Spool | None = None
        # Lines of each file in the spool: from, to.
        self._rows: dict[Shard, tuple[int, int]] = {}

    def check(self) -> None:
        try:
            for shard in self._dataset.data_shards():
                self._read(shard)
            if self._spool is not None and self._spool.rows:
                self._check_statistics(self._spool)
        finally:
            if self._spool is not None:
                self._spool.close()
            self._path.unlink(missing_ok=True)

    def _read(self, shard: Shard) -> None:
        dataset, name = self._dataset, self._name
        path = dataset.data_path(shard)
        file = dataset.relative(path)
        inside, ends = dataset.rows_of(shard)
        begin = self._spool.rows if self._spool is not None else 0
        row = 0
        # A file that ends early is the business of another check: what came is used.
        with self._finite.guard(file=file, feature=name):
            for values in column_batches(path, name, dataset.width(name)):
                if self._spool is None:
                    self._spool = Spool(self._path, self._last, values.dtype)
                self._spool.append(values.reshape(-1, self._last))
                self._finite.count("numbers", values.size)
                if values.dtype.kind == "f":
                    self._check_finite(values, row, file, inside, ends)
                row += len(values)
        self._rows[shard] = begin, begin + row * self._lines

    def _check_finite(
        self,
        values: NDArray[Any],
        row: int,
        file: str,
        inside: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> None:
        bad = np.argwhere(~np.isfinite(values))
        if not len(bad):
            return
        local, element = row + int(bad[0, 0]), int(bad[0, 1])
        at = int(np.searchsorted(ends, local, side="right"))
        episode = int(inside[at]) if at < len(inside) else None
        begin = int(ends[at - 1]) if at else 0
        self._finite.fail(
            f"element {element} is {values[bad[0, 0], element]}",
            file=file,
            episode=episode,
            frame=local - begin,
            feature=self._name,
            times=len(bad),
        )

    def _check_statistics(self, spool: Spool) -> None:
        dataset, name, check = self._dataset, self._name, self._statistics
        assert dataset.episodes is not None  # noqa: S101 - its data files are read
        lengths = dataset.episodes.length
        for episode, (file, stated) in enumerate(dataset.episode_statistics(name)):
            if episode >= len(lengths):
                break
            shard, local = dataset.data_place(episode)
            begin, end = self._rows[shard]
            first = begin + local * self._lines
            values = spool.view(first)[: min(int(lengths[episode]) * self._lines, end - first)]
            if not len(values):
                check.fail("has no rows to compare", file=file, episode=episode, feature=name)
                continue
            check.count("episodes")
            self._compare(stated, values, file, episode)
        stated = dataset.statistics.get(name)
        if not isinstance(stated, Mapping):
            check.fail("has no statistics", file="meta/stats.json", feature=name)
            return
        check.count("features")
        self._compare(stated, spool.view(), "meta/stats.json", None)

    def _compare(
        self, stated: Mapping[str, Any], values: NDArray[Any], file: str, episode: int | None
    ) -> None:
        found = of_columns(values)
        found["count"] //= self._lines
        problem = differing(stated, found, self._tolerance)
        if problem:
            self._statistics.fail(problem, file=file, episode=episode, feature=self._name)


def differing(stated: Mapping[str, Any], found: Statistics, tolerance: float) -> str:
    """What differs first between stated and recomputed statistics; empty if nothing does."""
    size = len(found["min"])
    scale = np.maximum(np.abs(found["min"]), np.abs(found["max"]))
    quantiles_are_exact = tolerance <= _EXACT
    for key, expected in found.items():
        values = stated_array(stated.get(key))
        if values is None or values.size != (1 if key == "count" else size):
            if key in QUANTILES and key not in stated and not quantiles_are_exact:
                continue  # older versions have none
            return f"{key} is {stated.get(key)}: expected {len(expected)} numbers"
        if key == "count":
            if int(values[0]) != int(expected[0]):
                return f"count is {int(values[0])}, there are {int(expected[0])} rows"
            continue
        # lerobot counts in bins that reach a little beyond the values.
        slack = tolerance * scale + (0.0 if quantiles_are_exact else _BIN_EDGE)
        if key in QUANTILES and not quantiles_are_exact:
            wrong = (values < found["min"] - slack) | (values > found["max"] + slack)
        else:
            # The same infinity on both sides, and no number on both, are no difference.
            same = (values == expected) | (np.isnan(values) & np.isnan(expected))
            wrong = ~(same | (np.abs(values - expected) <= slack))
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            return f"{key} of element {at} is {values[at]:.9g}, the rows give {expected[at]:.9g}"
    return ""


def stated_array(value: Any) -> NDArray[np.float64] | None:
    """Numbers of a stated statistic in one row; None if they are none."""
    if value is None:
        return None
    try:
        return np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
