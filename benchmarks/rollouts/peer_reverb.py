"""Reverb: a queue in the trainer's process, which the collector writes into.

A step of all environments at once is one append, the rollout one item: an append for each
environment and step would be 32 768 of them. A chunk is one step: longer ones were slower here, for
no chunk leaves before it is full. Favours Reverb: the server is in the trainer's process, nothing
is written to a disk, and what it gives, ``[time, env, ...]``, is taken as it is. Against it: its
own codec (Snappy) cannot be turned off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import reverb
import tensorflow as tf
from worker import Leaves, Peer, serve

_TABLE = "rollouts"


class ReverbPeer(Peer):
    """Steps of all environments."""

    def __init__(self) -> None:
        self._client: Any = None
        self._server: Any = None
        self._samples: Any = None
        self._signature: dict[str, Any] = {}

    def native(self, leaves: Leaves) -> list[Leaves]:
        """A step of all environments each, as a collector makes them."""
        steps = next(iter(leaves.values())).shape[1]
        self._signature = {
            path: tf.TensorSpec((steps, len(a), *a.shape[2:]), a.dtype)
            for path, a in leaves.items()
        }
        return [
            {path: np.ascontiguousarray(array[:, step]) for path, array in leaves.items()}
            for step in range(steps)
        ]

    def leaves(self, native: Leaves) -> Leaves:
        """``[env, time, ...]``."""
        return {path: np.swapaxes(array, 0, 1) for path, array in native.items()}

    def listen(self, way: str, address: str) -> int:  # noqa: ARG002 - one way, any address
        """Serve one queue."""
        table = reverb.Table.queue(_TABLE, max_size=2, signature=self._signature)
        self._server = reverb.Server([table])
        self._samples = reverb.TrajectoryDataset.from_table_signature(
            server_address=f"localhost:{self._server.port}",
            table=_TABLE,
            max_in_flight_samples_per_worker=1,
            num_workers_per_iterator=1,
        ).as_numpy_iterator()
        return self._server.port

    def receive(self, way: str) -> Leaves:  # noqa: ARG002 - one way
        """The next one that arrives."""
        return next(self._samples).data

    def connect(self, way: str, address: str, port: int) -> None:  # noqa: ARG002 - one way
        """Connect to the trainer."""
        self._client = reverb.Client(f"{address}:{port}")

    def send(self, way: str, native: list[Leaves]) -> None:  # noqa: ARG002 - one way
        """Append all steps, and make an item of them."""
        steps = len(native)
        with self._client.trajectory_writer(num_keep_alive_refs=steps) as writer:
            for path in native[0]:
                writer.configure((path,), num_keep_alive_refs=steps, max_chunk_length=1)
            for step in native:
                writer.append(step)
            trajectory = {path: writer.history[path][-steps:] for path in native[0]}
            writer.create_item(_TABLE, priority=1.0, trajectory=trajectory)
            writer.flush()


if __name__ == "__main__":
    serve(ReverbPeer())
