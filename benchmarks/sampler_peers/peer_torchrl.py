"""TorchRL: a replay buffer over memory-mapped storage, uniform sampler, prefetching.

Favours TorchRL: there is no server and no codec, the storage is mapped into the process that
trains and holds both observations of a transition side by side; a batch is one gather.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from protocol import BATCH, SHAPE, PeerData, answer
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, ReplayBuffer
from torchrl.data.replay_buffers.samplers import RandomSampler

_CHUNK = 100


def resized(batch: TensorDict) -> TensorDict:
    """Resize on the way out, by torch's own kernel for channels-last bytes."""
    frames = batch["frames"]
    if frames.shape[1:] != SHAPE:
        images = frames.flatten(0, 2).permute(0, 3, 1, 2)
        images = torch.nn.functional.interpolate(images, SHAPE[2:4], mode="bilinear")
        batch["frames"] = images.permute(0, 2, 3, 1).reshape(-1, *SHAPE)
    return batch


def main() -> None:
    """Answer the driver."""
    data = PeerData.from_arguments()
    count = len(data.pairs)
    folder = data.prepared("torchrl", lambda _: None)
    buffer = ReplayBuffer(
        storage=LazyMemmapStorage(count, scratch_dir=str(folder), existsok=True),
        sampler=RandomSampler(),
        batch_size=BATCH,
        prefetch=2,
        transform=resized,
    )
    waiting: list[np.ndarray] = []
    for number, frames in enumerate(data.transitions(), 1):
        waiting.append(frames)
        if len(waiting) == _CHUNK or number == count:
            stacked = torch.from_numpy(np.stack(waiting))
            buffer.extend(TensorDict({"frames": stacked}, batch_size=[len(waiting)]))
            waiting = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield buffer.sample()["frames"]

    answer(data, endless(), lambda batch: batch.numpy().reshape(BATCH, *SHAPE))


if __name__ == "__main__":
    main()
