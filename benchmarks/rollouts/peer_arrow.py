"""Arrow: its IPC format, and Flight with the trainer as the server that the collector puts into.

A row is an environment, a column a field. Favours Arrow: bools are kept as bytes, for its own are
bits; uncompressed IPC is read as views of the message, so nothing is decoded; Flight's messages go
straight to the trainer, nothing is stored or checked on the way, and the trainer copies each batch
into its arrays while the next one arrives.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight
from worker import Leaves, Peer, serve

_BATCH_ENVS = 64
_COMPRESSION = {"flight": None, "flight_lz4": "lz4", "flight_zstd": "zstd"}


def as_batch(leaves: Leaves) -> pa.RecordBatch:
    """A record batch over the same memory; shapes and dtypes in its metadata."""
    columns: dict[str, pa.Array] = {}
    for path, array in leaves.items():
        flat = array.reshape(-1)
        values = pa.array(flat.view(np.uint8) if flat.dtype == np.bool_ else flat)
        columns[path] = pa.FixedSizeListArray.from_arrays(values, array[0].size)
    fields = [
        pa.field(path, column.type, metadata=_described(leaves[path]))
        for path, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


def _described(array: np.ndarray[Any, Any]) -> dict[str, str]:
    return {"dtype": array.dtype.str, "shape": ",".join(map(str, array.shape))}


def _shapes(schema: pa.Schema) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {
        field.name: (
            np.dtype(field.metadata[b"dtype"].decode()),
            tuple(map(int, field.metadata[b"shape"].split(b","))),
        )
        for field in schema
    }


def as_leaves(batch: pa.RecordBatch) -> Leaves:
    """Views of a batch as arrays."""
    return {
        path: batch.column(path).flatten().to_numpy().view(dtype).reshape(-1, *shape[1:])
        for path, (dtype, shape) in _shapes(batch.schema).items()
    }


class Ipc:
    """A stream in memory."""

    def __init__(self, compression: str | None) -> None:
        self._options = pa.ipc.IpcWriteOptions(compression=compression)

    def encode(self, native: Leaves) -> pa.Buffer:
        """Write one batch."""
        sink, batch = pa.BufferOutputStream(), as_batch(native)
        with pa.ipc.new_stream(sink, batch.schema, options=self._options) as writer:
            writer.write_batch(batch)
        return sink.getvalue()

    def size_bytes(self, encoded: pa.Buffer) -> int:
        """Bytes of it."""
        return encoded.size

    def decode(self, encoded: pa.Buffer) -> Leaves:
        """Read the batch."""
        with pa.ipc.open_stream(encoded) as reader:
            return as_leaves(reader.read_next_batch())


class Inbox(flight.FlightServerBase):
    """Puts what is put into it into a queue."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.arrived: queue.SimpleQueue[Leaves] = queue.SimpleQueue()

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ARG002
        """Copy batches into arrays as they come."""
        leaves = {
            path: np.empty(shape, dtype) for path, (dtype, shape) in _shapes(reader.schema).items()
        }
        envs = 0
        for chunk in reader:
            part = as_leaves(chunk.data)
            for path, array in part.items():
                leaves[path][envs : envs + len(array)] = array
            envs += chunk.data.num_rows
        self.arrived.put(leaves)


class ArrowPeer(Peer):
    """Record batches and Flight."""

    codecs: Mapping[str, Any] = {
        "arrow": Ipc(None),
        "arrow_lz4": Ipc("lz4"),
        "arrow_zstd": Ipc("zstd"),
    }

    def __init__(self) -> None:
        self._inbox: Inbox | None = None
        self._client: flight.FlightClient | None = None

    def listen(self, way: str, address: str) -> int:  # noqa: ARG002 - one for all ways
        """Serve."""
        if self._inbox is None:
            self._inbox = Inbox(f"grpc://{address}:0")
            threading.Thread(target=self._inbox.serve, daemon=True).start()
        return self._inbox.port

    def receive(self, way: str) -> Leaves:  # noqa: ARG002 - one for all ways
        """The next one that arrives."""
        if self._inbox is None:
            raise RuntimeError("not listening")
        return self._inbox.arrived.get()

    def connect(self, way: str, address: str, port: int) -> None:  # noqa: ARG002 - one for all ways
        """Connect to the trainer."""
        if self._client is None:
            self._client = flight.connect(f"grpc://{address}:{port}")

    def send(self, way: str, native: Leaves) -> None:
        """Put it in batches."""
        if self._client is None:
            raise RuntimeError("not connected")
        batch = as_batch(native)
        compression = _COMPRESSION[way]
        options = flight.FlightCallOptions(
            write_options=pa.ipc.IpcWriteOptions(compression=compression)
        )
        descriptor = flight.FlightDescriptor.for_path("rollout")
        writer, _ = self._client.do_put(descriptor, batch.schema, options=options)
        with writer:
            for env in range(0, batch.num_rows, _BATCH_ENVS):
                writer.write_batch(batch.slice(env, _BATCH_ENVS))


if __name__ == "__main__":
    serve(ArrowPeer())
