"""Parquet files of a LeRobot dataset: one table in files under a size, written piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock_converter.outputs.shards import FILES_PER_FOLDER, Shard, link_or_copy, shard_path

__all__ = ["TableShards", "write_tasks"]

_MB = 1_000_000

# Rows come in small blocks: a pool of Arrow's own would only keep memory beside that of Python.
pa.set_memory_pool(pa.system_memory_pool())
_COMPRESSION = "snappy"


class TableShards:
    """Appends whole episodes; an episode never spans two files.

    Args:
        folder: ``data`` or ``meta/episodes`` of the dataset.
        limit_mb: Size that a file stays under, unless one episode is larger.
    """

    def __init__(self, folder: Path, limit_mb: int) -> None:
        self._folder, self._limit_bytes = folder, limit_mb * _MB
        self._shard: Shard | None = None
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def append(self, groups: Iterator[pa.Table], size_bytes: int) -> Shard:
        """Append the row groups of one episode, at least one, of about that size in all."""
        first = next(groups)
        writer, shard = self._room(size_bytes, first.schema)
        for group in chain([first], groups):
            writer.write_table(group)
        return shard

    def append_rows(self, rows: list[dict[str, Any]], size_bytes: int) -> None:
        """Append rows that are small enough to be in memory; all rows have the same keys."""
        schema = None if self._writer is None else self._writer.schema
        table = pa.Table.from_pylist(rows, schema=schema)
        writer, _ = self._room(size_bytes, table.schema)
        writer.write_table(table)

    def resume(
        self,
        files: Sequence[Path],
        shard: Shard,
        size_bytes: int,
        *,
        skip: int = 0,
        rows_of_lists: bool = False,
    ) -> None:
        """Go on with a table that was finished before.

        Args:
            files: Its files in order; all but the last one get a second name.
            shard: Of the last file.
            size_bytes: What was appended to the last file, as ``append`` was told.
            skip: Row groups at the end of the last file that are not taken.
            rows_of_lists: Whether they were written by ``append_rows``.
        """
        for number, file in enumerate(files[:-1]):
            place = Shard(*divmod(number, FILES_PER_FOLDER))
            link_or_copy(file, shard_path(self._folder, place, "parquet"))
        with pq.ParquetFile(files[-1]) as source:
            schema = source.schema_arrow
            if rows_of_lists:
                # Lists are read with another name of their elements than they are made with.
                fields = [pa.field(each.name, _as_made(each.type)) for each in schema]
                schema = pa.schema(fields, schema.metadata)
            writer, _ = self._open(shard, schema)
            for group in range(source.num_row_groups - skip):
                writer.write_table(source.read_row_group(group).cast(schema))
        self._bytes = size_bytes

    @property
    def place(self) -> tuple[Shard, int]:
        """The current file and what was appended to it; see ``resume``."""
        return self._shard or Shard(0, 0), self._bytes

    def peek(self, size_bytes: int) -> Shard:
        """The file that the next ``size_bytes`` would go to."""
        if self._shard is None:
            return Shard(0, 0)
        full = self._bytes + size_bytes > self._limit_bytes
        return self._shard.next(FILES_PER_FOLDER) if full else self._shard

    def close(self) -> None:
        """Finish the current file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _room(self, size_bytes: int, schema: pa.Schema) -> tuple[pq.ParquetWriter, Shard]:
        shard = self.peek(size_bytes)
        writer = self._writer
        if writer is None or shard != self._shard:
            writer, self._bytes = self._open(shard, schema)
        self._bytes += size_bytes
        return writer, shard

    def _open(self, shard: Shard, schema: pa.Schema) -> tuple[pq.ParquetWriter, int]:
        """Begin a file, which holds nothing yet."""
        self.close()
        path = shard_path(self._folder, shard, "parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema, compression=_COMPRESSION)
        self._shard = shard
        return self._writer, 0


def _as_made(kind: pa.DataType) -> pa.DataType:
    """The type as it is inferred from Python's lists."""
    return pa.list_(_as_made(kind.value_type)) if pa.types.is_list(kind) else kind


def write_tasks(path: Path, tasks: list[str]) -> None:
    """Write ``tasks.parquet``, a pandas table whose index is the text of the task."""
    index = "__index_level_0__"
    described = {
        "index_columns": [index],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {
                "name": None,
                "field_name": index,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": None,
            },
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: tasks})
    pq.write_table(
        table.replace_schema_metadata({"pandas": json.dumps(described)}),
        path,
        compression=_COMPRESSION,
    )
