"""MosaicML Streaming: MDS shards without compression on a local disk, two DataLoader workers.

Favours Streaming: shards are local and raw, and its shuffle moves within blocks of shards rather
than over the whole dataset. Against it: every sample holds both observations of its transition,
and DataLoader collates them once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from protocol import BATCH, PeerData, answer, resize
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory


class Transitions(StreamingDataset):
    """Transforms where the documentation advises to: in ``__getitem__``."""

    def __getitem__(self, at: int) -> np.ndarray:
        return resize(super().__getitem__(at)["frames"])


def main() -> None:
    """Answer the driver."""
    data = PeerData.from_arguments()

    def write(folder: Path) -> None:
        columns = {"frames": f"ndarray:uint8:{','.join(map(str, data.stored_shape))}"}
        with MDSWriter(out=str(folder / "mds"), columns=columns, compression=None) as writer:
            for frames in data.transitions():
                writer.write({"frames": np.ascontiguousarray(frames)})

    folder = data.prepared("mosaicml", write)
    clean_stale_shared_memory()
    dataset = Transitions(
        local=str(folder / "mds"),
        shuffle=True,
        batch_size=BATCH,
        num_canonical_nodes=1,
        epoch_size=BATCH * 64,
    )
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=2, persistent_workers=True, drop_last=True
    )

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield from loader

    answer(data, endless(), lambda batch: batch.numpy())


if __name__ == "__main__":
    main()
