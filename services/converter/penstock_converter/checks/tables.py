"""Checks of tables: columns, the numbers of rows, times, and that numbers are finite."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock_converter.checks.dataset import FRAME_COLUMNS, Dataset, batch_rows, matrix, open_table
from penstock_converter.checks.findings import Check, Ledger
from penstock_converter.outputs.shards import Shard

__all__ = ["check_tables", "column_batches"]


def check_tables(dataset: Dataset, ledger: Ledger) -> None:
    """Check the data files but for their images; row group by row group."""
    columns = ledger.open("columns", "types and shapes of info.json")
    indices = ledger.open("row numbers", "exact")
    times = ledger.open("timestamps", "frame_index / fps to the last bit of float32")
    if not dataset.data_shards():
        for check in (columns, indices, times):
            check.skipped = "no episode names a data file"
        return
    for shard in dataset.data_shards():
        path = dataset.data_path(shard)
        file = dataset.relative(path)
        with columns.guard(file=file), open_table(path) as table:
            columns.count("files")
            _check_columns(dataset, table.schema_arrow, file, columns)
        with indices.guard(file=file), open_table(path) as table:
            _check_rows(dataset, shard, table, indices, times)


def column_batches(path: Path, name: str, width: int) -> Generator[NDArray[Any], None, None]:
    """A column of numbers of a data file, (n, width) at a time.

    Raises:
        DataFault: The file or column is missing, or rows are empty or of another width.
    """
    with open_table(path) as table:
        for batch in table.iter_batches(batch_rows(width), columns=[name]):
            yield matrix(batch.column(name), width)


def _check_columns(dataset: Dataset, schema: pa.Schema, file: str, check: Check) -> None:
    for name, described in dataset.features.items():
        if described["dtype"] == "video":
            continue
        check.count("columns")
        if name not in schema.names:
            check.fail("is a feature of info.json and no column", file=file, feature=name)
            continue
        found: Any = schema.field(name).type
        problem = _mismatch(found, described["dtype"], dataset.width(name))
        if problem:
            check.fail(f"is {found}: {problem}", file=file, feature=name)
    extra = set(schema.names) - set(dataset.features)
    if extra:
        check.count("columns beside the features", len(extra))


def _mismatch(found: Any, dtype: str, width: int) -> str:
    """What is wrong with the type of a column; empty if nothing is."""
    if dtype == "image":
        parts = {field.name: field.type for field in found} if pa.types.is_struct(found) else {}
        good = "bytes" in parts and pa.types.is_binary(parts["bytes"])
        return "" if good else "expected a struct of bytes and path"
    size: int | None = 1
    while not pa.types.is_struct(found):
        if isinstance(found, pa.BaseExtensionType):
            found = found.storage_type
        elif pa.types.is_fixed_size_list(found):
            size = size * found.list_size if size is not None else None
            found = found.value_type
        elif pa.types.is_list(found) or pa.types.is_large_list(found):
            # Of any length: rows tell.
            size, found = None, found.value_type
        else:
            break
    expected = pa.type_for_alias("halffloat" if dtype == "float16" else dtype)
    if found not in (expected, pa.large_string() if dtype == "string" else expected):
        return f"expected numbers of type {dtype}" if dtype != "string" else "expected texts"
    if size is not None and size != width:
        return f"{size} numbers a row, the shape has {width}"
    return ""


def _check_rows(
    dataset: Dataset, shard: Shard, table: pq.ParquetFile, indices: Check, times: Check
) -> None:
    inside, ends = dataset.rows_of(shard)
    file = dataset.relative(dataset.data_path(shard))
    expected_rows = int(ends[-1])
    rows = table.metadata.num_rows
    if rows != expected_rows:
        indices.fail(f"has {rows} rows, its episodes have {expected_rows}", file=file)
    present = [name for name in FRAME_COLUMNS if name in table.schema_arrow.names]
    start = 0
    for batch in table.iter_batches(batch_rows(len(FRAME_COLUMNS)), columns=present):
        count = min(len(batch), expected_rows - start)
        if count <= 0:
            break
        local = np.arange(start, start + count)
        at = np.searchsorted(ends, local, side="right")
        place = _Rows(dataset, inside[at], local, ends[at], file)
        for name in present:
            found = matrix(batch.column(name), 1)[:count, 0]
            if name == "timestamp":
                place.check_times(found, times)
            else:
                place.check_numbers(name, found, indices)
        indices.count("rows", count)
        start += count


class _Rows:
    """Rows of a batch with the episodes they belong to."""

    def __init__(
        self,
        dataset: Dataset,
        episodes: NDArray[np.int64],
        local: NDArray[np.int64],
        ends: NDArray[np.int64],
        file: str,
    ) -> None:
        table = dataset.episodes
        assert table is not None  # noqa: S101 - its data files are read
        self._dataset, self._file = dataset, file
        self._episodes = episodes
        self._frames = local - (ends - table.length[episodes])
        self._index = table.start[episodes] + self._frames

    def check_numbers(self, name: str, found: NDArray[Any], check: Check) -> None:
        if name == "task_index":
            self._check_tasks(found, check)
            return
        expected = {
            "frame_index": self._frames,
            "episode_index": self._episodes,
            "index": self._index,
        }[name]
        wrong = np.flatnonzero(found != expected)
        self._fail(check, wrong, name, found, expected)

    def check_times(self, found: NDArray[Any], check: Check) -> None:
        fps = self._dataset.fps
        if not fps:
            check.skipped = "info.json has no fps"
            return
        exact = self._frames / fps
        step = np.spacing(exact.astype(np.float32)).astype(np.float64)
        wrong = np.flatnonzero(~(np.abs(found.astype(np.float64) - exact) <= step))
        check.count("rows", len(found))
        self._fail(check, wrong, "timestamp", found, exact.astype(np.float32))

    def _check_tasks(self, found: NDArray[Any], check: Check) -> None:
        table = self._dataset.episodes
        assert table is not None  # noqa: S101 - its data files are read
        numbers = {text: number for number, text in self._dataset.tasks.items()}
        begins = np.flatnonzero(np.diff(self._episodes, prepend=-1))
        for begin, end in zip(begins, [*begins[1:], len(found)], strict=True):
            episode = int(self._episodes[begin])
            allowed = [numbers[text] for text in table.tasks[episode] if text in numbers]
            wrong = np.flatnonzero(~np.isin(found[begin:end], allowed)) + begin
            if len(wrong):
                check.fail(
                    f"task_index is {found[wrong[0]]}, the tasks of the episode are {allowed}",
                    file=self._file,
                    episode=episode,
                    frame=int(self._frames[wrong[0]]),
                    feature="task_index",
                    times=len(wrong),
                )

    def _fail(
        self,
        check: Check,
        wrong: NDArray[np.intp],
        name: str,
        found: NDArray[Any],
        expected: NDArray[Any],
    ) -> None:
        if not len(wrong):
            return
        at = int(wrong[0])
        check.fail(
            f"is {found[at]}, expected {expected[at]}",
            file=self._file,
            episode=int(self._episodes[at]),
            frame=int(self._frames[at]),
            feature=name,
            times=len(wrong),
        )
