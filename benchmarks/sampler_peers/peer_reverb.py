"""Reverb: a server process with a uniform table of two-step trajectories, read over loopback.

Favours Reverb: data live in the server's memory (nothing is read from a disk), and each observation
is stored once although two transitions use it. Against it: chunks are compressed by its own codec,
which cannot be turned off.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import reverb
import tensorflow as tf
from protocol import BATCH, PeerData, answer, resize

_TABLE = "transitions"


def serve(port: int, size: int, side: int) -> None:
    """Serve one table until the process is ended."""
    shape = (2, 3, side, side, 3)
    table = reverb.Table(
        name=_TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=size,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={"frames": tf.TensorSpec(shape, tf.uint8)},
    )
    reverb.Server(tables=[table], port=port).wait()


def fill(client: reverb.Client, data: PeerData) -> None:
    """Write every observation once and an item for every pair of neighbours."""
    observations = data.observations
    with client.trajectory_writer(num_keep_alive_refs=2) as writer:
        writer.configure(("frames",), num_keep_alive_refs=2, max_chunk_length=1)
        previous = -1
        for now, then in data.pairs.tolist():
            if now != previous:
                writer.append({"frames": observations[now]})
            writer.append({"frames": observations[then]})
            trajectory = {"frames": writer.history["frames"][-2:]}
            writer.create_item(_TABLE, priority=1.0, trajectory=trajectory)
            writer.flush()
            previous = then


def main() -> None:
    """Answer the driver; ``--serve PORT SIZE SIDE`` is the server process."""
    if sys.argv[1] == "--serve":
        serve(*map(int, sys.argv[2:5]))
        return
    data = PeerData.from_arguments()
    port = reverb.server.portpicker.pick_unused_port()
    sizes = map(str, (port, len(data.pairs), data.stored_shape[2]))
    server = subprocess.Popen([sys.executable, __file__, "--serve", *sizes])
    try:
        client = reverb.Client(f"localhost:{port}")
        client.server_info(timeout=60)
        fill(client, data)
        dataset = reverb.TrajectoryDataset.from_table_signature(
            server_address=f"localhost:{port}",
            table=_TABLE,
            max_in_flight_samples_per_worker=2 * BATCH,
            num_workers_per_iterator=2,
        )
        dataset = dataset.map(
            lambda sample: tf.numpy_function(resize, [sample.data["frames"]], tf.uint8),
            num_parallel_calls=2,
        )
        dataset = dataset.batch(BATCH).prefetch(2)
        answer(data, iter(dataset.as_numpy_iterator()), np.asarray)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
