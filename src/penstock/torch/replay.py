"""A replay buffer with the calls of a hand-written one for three cameras and joints.

It keeps no frame in memory and reads from any target, so a training script changes two lines:

    from penstock.torch import MultimodalReplayBuffer
    buffer = MultimodalReplayBuffer(action_dim=16, joint_dim=16, device="cuda")
    buffer.load_from_hdf5("grpc://sampler:50051")  # or a file, or a pattern of files
    batch = buffer.sample(256)
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.batch import Batch
from penstock.client.sampler import SamplerClient, open_sampler
from penstock.dataset import DatasetInfo
from penstock.errors import InvalidInput, Unsupported
from penstock.plan import Plan
from penstock.torch.pinned import as_tensor, pinned_allocator

__all__ = ["AsyncSampler", "MultimodalReplayBuffer"]

log = logging.getLogger(__name__)

CAMERAS = ("left", "right", "global")

Sample = tuple[torch.Tensor, ...]


class MultimodalReplayBuffer:
    """Random transitions of three cameras and joints, as eleven tensors.

    Unlike the hand-written buffer it never pairs the end of one episode with the start of the next,
    and ``num_traj`` counts episodes.

    Args:
        action_dim: Width of an action; must be the dataset's.
        joint_dim: Width of a joint vector; must be the dataset's.
        device: Where the tensors go.
        max_size: Taken for the sake of old calls. Nothing is held, so nothing is left out.
        image_size: Height and width in pixels of every image.
        split: Episodes to draw from; ``train`` and ``val`` never share one.
        train_fraction: Expected share of episodes in ``train``.
        seed: Of the draws; None takes one from ``numpy.random``, so ``numpy.random.seed`` holds.
    """

    def __init__(
        self,
        action_dim: int,
        joint_dim: int = 16,
        device: str | torch.device = "cpu",
        max_size: int = 1_000_000,
        *,
        image_size: tuple[int, int] = (224, 224),
        split: Literal["train", "val", "all"] = "all",
        train_fraction: float = 0.9,
        seed: int | None = None,
    ) -> None:
        self.action_dim, self.joint_dim, self.max_size = action_dim, joint_dim, max_size
        self.device = torch.device(device)
        self._image_size = image_size
        drawn = int(np.random.randint(2**31)) if seed is None else seed  # noqa: NPY002 - see seed
        self._plan = Plan(seed=drawn, batch_size=1, split=split, train_fraction=train_fraction)
        self._client: SamplerClient | None = None
        self._step = 0
        self._stepping = threading.Lock()

    def load_from_hdf5(self, hdf5_path: str, num_traj: int | None = None) -> None:
        """Open a dataset; reads metadata only.

        Args:
            hdf5_path: A file, a pattern of files, or any target (``grpc://sampler:50051``).
            num_traj: Only the first so many episodes; None for all.

        Raises:
            InvalidInput: A dataset is open already, or widths or cameras are not this buffer's.
            DataFault: No file can be served; names the first reasons.
            Unavailable: Nobody answers at a ``grpc`` target.
        """
        if self._client is not None:
            raise InvalidInput(
                f"{hdf5_path}: this buffer has a dataset already: name all files at once, by a "
                "pattern or with commas between them",
                field="hdf5_path",
            )
        # Only a GPU reads page-locked memory by itself.
        allocate = pinned_allocator() if self.device.type == "cuda" else None
        client = open_sampler(hdf5_path, image_size=self._image_size, allocate=allocate)
        try:
            self._check(client.info)
            self._plan = Plan.from_dict({**self._plan.to_dict(), "num_traj": num_traj})
            held = client.view(self._plan).transitions
        except BaseException:
            client.close()
            raise
        if held > self.max_size:
            log.warning(
                "%s has %d transitions, more than max_size %d: all of them are drawn from, since "
                "none is held in memory",
                hdf5_path,
                held,
                self.max_size,
            )
        self._client = client

    def sample(self, batch_size: int) -> Sample:
        """Draw transitions with replacement.

        Returns:
            ``left, right, global`` images ``(B, 3, H, W) uint8``; ``joint (B, J)``; ``action
            (B, A)``; the next ``left, right, global``; ``next_joint``; ``reward (B, 1)``;
            ``not_done (B, 1)``, 0 where the episode ended; all float32 but the images. Images are
            views of one block of memory, with the strides of ``channels_last``.

        Raises:
            InvalidInput: No dataset was loaded.
        """
        with self._stepping:
            step, self._step = self._step, self._step + 1
        plan = Plan.from_dict({**self._plan.to_dict(), "batch_size": batch_size})
        return self._tensors(self._opened().sample(plan, step))

    def add(self, *_: Any, **__: Any) -> None:
        """Refuse: the files are what is sampled.

        Raises:
            Unsupported: Always; says what to do instead.
        """
        raise Unsupported(
            "this buffer samples recorded files and takes no transitions: write them to an HDF5 "
            "file beside the others (see docs/data-layout.md) and load that"
        )

    @property
    def info(self) -> DatasetInfo:
        """The dataset: files, episodes, statistics."""
        return self._opened().info

    @property
    def size(self) -> int:
        """Transitions to draw from."""
        return self._opened().view(self._plan).transitions

    def __len__(self) -> int:
        return self.size

    @property
    def action_mean(self) -> NDArray[np.float32]:
        """``(A,) float32``, over the whole dataset."""
        return self.info.statistics["action"].mean

    @property
    def action_std(self) -> NDArray[np.float32]:
        """``(A,) float32``, over the whole dataset."""
        return self.info.statistics["action"].std

    @property
    def joint_mean(self) -> NDArray[np.float32]:
        """``(J,) float32``, over the whole dataset."""
        return self.info.statistics["joint"].mean

    @property
    def joint_std(self) -> NDArray[np.float32]:
        """``(J,) float32``, over the whole dataset."""
        return self.info.statistics["joint"].std

    def close(self) -> None:
        """Release files and connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> SamplerClient:
        if self._client is None:
            raise InvalidInput("no dataset: call load_from_hdf5 first", field="hdf5_path")
        return self._client

    def _check(self, info: DatasetInfo) -> None:
        for name, mine, found in (
            ("action_dim", self.action_dim, info.action_dim),
            ("joint_dim", self.joint_dim, info.joint_dim),
        ):
            if mine != found:
                raise InvalidInput(
                    f"{name} is {mine}, the dataset's is {found}: make the buffer with it",
                    field=name,
                )
        missing = [camera for camera in CAMERAS if camera not in info.camera_names]
        if missing:
            raise InvalidInput(
                f"the dataset has the cameras {', '.join(info.camera_names) or 'none'}, this "
                f"buffer needs {', '.join(missing)} as well: see the setting cameras in "
                "docs/data-layout.md, or use BatchDataset, which takes any cameras",
                field="cameras",
            )

    def _tensors(self, batch: Batch) -> Sample:
        def to(values: NDArray[Any]) -> torch.Tensor:
            return as_tensor(values).to(self.device, non_blocking=True)

        # One copy for all images; what follows are views of it.
        frames = to(batch.frames).permute(0, 1, 2, 5, 3, 4)
        places = [batch.cameras.index(camera) for camera in CAMERAS]
        return (
            *(frames[:, 0, place] for place in places),
            to(batch.joint),
            to(batch.action),
            *(frames[:, 1, place] for place in places),
            to(batch.next_joint),
            to(batch.reward).unsqueeze(1),
            to(1.0 - batch.terminal.astype(np.float32)).unsqueeze(1),
        )


class AsyncSampler:
    """Keeps batches of a buffer ready, so that training does not wait for them.

    Args:
        buffer: A loaded buffer; it stays the caller's to close, after :meth:`stop`.
        batch_size: Transitions of a batch.
        queue_size: Batches that may wait for their use.
    """

    def __init__(
        self, buffer: MultimodalReplayBuffer, batch_size: int, queue_size: int = 4
    ) -> None:
        self._buffer, self._batch_size = buffer, batch_size
        self._ready: queue.Queue[Sample | BaseException] = queue.Queue(max(1, queue_size))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-replay", daemon=True)
        self._thread.start()

    def get_batch(self) -> Sample:
        """The next batch, as :meth:`MultimodalReplayBuffer.sample` gives it.

        Raises:
            PenstockError: What kept the background thread from going on.
            InvalidInput: It was stopped.
        """
        while not self._stopped.is_set():
            try:
                found = self._ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                self._stopped.set()
                raise found
            return found
        raise InvalidInput("this sampler was stopped: make a new one", field="AsyncSampler")

    def stop(self) -> None:
        """End the background thread; asked again it does nothing."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                found: Sample | BaseException = self._buffer.sample(self._batch_size)
            except Exception as error:  # noqa: BLE001 - handed to whoever asks for the next batch
                found = error
            while not self._stopped.is_set():
                try:
                    self._ready.put(found, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(found, BaseException):
                return
