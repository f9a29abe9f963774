"""tf.data service: a dispatcher and a worker in another process, TFRecord files, loopback.

Favours tf.data: files are read from end to end and mixed only within a buffer. Elements go
uncompressed, as advised where the network is not the limit.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from protocol import BATCH, SHAPE, PeerData, answer

_BUFFERED = 500
_PER_FILE = 200
_READY = "ready at "


def serve() -> None:
    """Run a dispatcher and a worker until the process is ended."""
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
    print(f"{_READY}{dispatcher.target}", flush=True)
    worker.join()


def write(folder: Path, data: PeerData) -> None:
    """Raw records; parsing protos would only cost the peer time."""
    transitions = data.transitions()
    for number in range(-(-len(data.pairs) // _PER_FILE)):
        with tf.io.TFRecordWriter(str(folder / f"{number:04d}.tfrecord")) as writer:
            for frames in itertools.islice(transitions, _PER_FILE):
                writer.write(frames.tobytes())


def decoded(record: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Frames of a record; resized by TensorFlow, because a worker runs no Python."""
    frames = tf.reshape(tf.io.decode_raw(record, tf.uint8), shape)
    if shape == SHAPE:
        return frames
    resized = tf.image.resize(tf.reshape(frames, (-1, *shape[2:])), SHAPE[2:4])
    return tf.reshape(tf.cast(tf.round(resized), tf.uint8), SHAPE)


def main() -> None:
    """Answer the driver; ``--serve`` is the server process."""
    if sys.argv[1] == "--serve":
        serve()
        return
    data = PeerData.from_arguments()
    folder = data.prepared("tfdata_service", lambda folder: write(folder, data))
    shape = data.stored_shape
    files = sorted(str(path) for path in folder.glob("*.tfrecord"))
    command = [sys.executable, __file__, "--serve"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        output = server.stdout or ()
        target = next(line for line in output if line.startswith(_READY))
        dataset = (
            tf.data.Dataset.from_tensor_slices(files)
            .shuffle(len(files))
            .repeat()
            .interleave(
                tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE
            )
            .shuffle(_BUFFERED)
            .map(
                lambda record: decoded(record, shape),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            .batch(BATCH, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
            .apply(
                tf.data.experimental.service.distribute(
                    processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                    service=target.removeprefix(_READY).strip(),
                    compression=None,
                )
            )
            .prefetch(2)
        )
        answer(data, iter(dataset.as_numpy_iterator()), np.asarray)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
