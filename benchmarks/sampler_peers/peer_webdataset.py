"""WebDataset: tar shards on a local disk, shard shuffle and a buffer, two WebLoader workers.

Favours WebDataset: shards are read from end to end, never at random places; transitions are mixed
only within a buffer of 500 and by the order of the shards.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import webdataset as wds
from protocol import BATCH, PeerData, answer, resize

_BUFFERED = 500


def main() -> None:
    """Answer the driver."""
    data = PeerData.from_arguments()

    def write(folder: Path) -> None:
        with wds.ShardWriter(str(folder / "%04d.tar"), maxcount=100, verbose=0) as writer:
            for number, frames in enumerate(data.transitions()):
                writer.write({"__key__": f"{number:08d}", "frames.bin": frames.tobytes()})

    folder = data.prepared("webdataset", write)
    shape = data.stored_shape
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, resampled=True, shardshuffle=False)
        .shuffle(_BUFFERED)
        .map(lambda sample: np.frombuffer(sample["frames.bin"], np.uint8).reshape(shape))
        .map(resize)
        .batched(BATCH, partial=False, collation_fn=np.stack)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    answer(data, iter(loader), np.asarray)


if __name__ == "__main__":
    main()
