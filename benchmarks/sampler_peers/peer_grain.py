"""Grain: ArrayRecord files with one record a group, global shuffle, its own read threads.

Favours grain: records are not compressed and hold both observations of a transition, in the
process that trains. (Over a hand-made memory map of frames of the final size, which is no format of
grain's, it costs what one copy costs.)
"""

from __future__ import annotations

import os
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from protocol import BATCH, PeerData, answer, resize


def main() -> None:
    """Answer the driver."""
    data = PeerData.from_arguments()

    def write(folder: Path) -> None:
        writer = ArrayRecordWriter(str(folder / "frames"), "group_size:1,uncompressed")
        for frames in data.transitions():
            writer.write(frames.tobytes())
        writer.close()

    folder = data.prepared("grain", write)
    shape = data.stored_shape
    dataset = (
        grain.MapDataset.source(grain.sources.ArrayRecordDataSource(str(folder / "frames")))
        .seed(0)
        .shuffle()
        .repeat()
        .map(lambda record: resize(np.frombuffer(record, np.uint8).reshape(shape)))
        .batch(BATCH)
        .to_iter_dataset(grain.ReadOptions(num_threads=os.cpu_count() or 2, prefetch_buffer_size=4))
    )
    answer(data, iter(dataset), np.asarray)


if __name__ == "__main__":
    main()
