"""Ray Data: blocks in the object store of this host, local shuffle buffer, prefetched batches.

Favours Ray: blocks lie in shared memory, uncompressed, and transitions are mixed only within a
buffer and by the order of blocks, as its documentation advises over a full shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import ray
from numpy.typing import NDArray
from protocol import BATCH, PeerData, answer, resize

_BLOCK = 50
_STORE_BYTES = 4 << 30


def main() -> None:
    """Answer the driver."""
    data = PeerData.from_arguments()
    ray.init(num_cpus=2, object_store_memory=_STORE_BYTES, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    observations, pairs = data.observations, data.pairs
    blocks = [
        ray.put(observations[pairs[start : start + _BLOCK]])
        for start in range(0, len(pairs), _BLOCK)
    ]
    dataset = ray.data.from_numpy_refs(blocks).materialize()

    def endless() -> Iterator[NDArray[np.uint8]]:
        while True:
            epoch = dataset.randomize_block_order().map_batches(
                lambda block: {"data": resize(block["data"])}, batch_size=None
            )
            for batch in epoch.iter_batches(
                batch_size=BATCH,
                batch_format="numpy",
                drop_last=True,
                prefetch_batches=2,
                local_shuffle_buffer_size=2 * BATCH,
            ):
                yield batch["data"]

    answer(data, endless(), np.asarray)
    ray.shutdown()


if __name__ == "__main__":
    main()
