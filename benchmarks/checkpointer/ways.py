"""Ways to save a state from a training loop: Penstock, and what others do, as they advise it."""

from __future__ import annotations

import copy
import os
import shutil
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from penstock import AsyncCheckpointSaver, RetentionPolicy, open_checkpoints

__all__ = [
    "DeepCopyAndSave",
    "DistributedSave",
    "PenstockSave",
    "TorchSave",
    "Way",
    "save_torch",
    "single_process_group",
]

_BUFFER_NAME = "memfd:penstock-snapshot"
_RUN = "bench"


class Way(Protocol):
    """A way to save.

    Attributes:
        durable_s: From each call until it was durable, where that is known.
    """

    durable_s: list[float]

    def save(self, state: dict[str, Any], step: int) -> None:
        """Save a state; what the training loop waits for is timed."""
        ...

    def before_optimizer(self) -> None:
        """Called before each step of the optimizer; what it waits for is timed."""
        ...

    def is_ready(self) -> bool:
        """Whether the next state may be saved."""
        ...

    def finish(self) -> None:
        """Wait until everything is durable, and make room on the disk."""
        ...


class PenstockSave:
    """``AsyncCheckpointSaver`` and a store in a folder.

    Args:
        folder: Of the store.
        settings: Of the saver, beside its own defaults.

    Attributes:
        durable_s: Unused: ``wait`` says when a checkpoint is durable.
        saver: The saver.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.durable_s: list[float] = []
        self._target = f"file://{folder}"
        before = set(psutil.Process().children())
        self.saver = AsyncCheckpointSaver(self._target, run=_RUN, **settings)
        (self.uploader,) = set(psutil.Process().children()) - before

    def save(self, state: dict[str, Any], step: int) -> None:
        """Save a state."""
        self.saver.save_async(state, step)

    def before_optimizer(self) -> None:
        """The saver waits by itself."""

    def is_ready(self) -> bool:
        """Whether the next state may be saved: always, newer ones take the place of older ones."""
        return True

    def total_ms(self, timer: str) -> float:
        """Milliseconds of a timer of the saver so far; 0 if it has measured nothing."""
        found = self.saver.monitor.get_summary().get(timer)
        return 0.0 if found is None else 1e3 * found["total"]

    def buffers(self) -> int:
        """Snapshots that there is memory for."""
        return Path("/proc/self/maps").read_text().count(_BUFFER_NAME)

    def finish(self) -> None:
        """Wait, then keep the newest one alone."""
        self.saver.wait()
        with open_checkpoints(self._target) as store:
            store.collect(_RUN, RetentionPolicy(keep_last=1))

    def close(self) -> None:
        """End the saver."""
        self.saver.shutdown()


class TorchSave:
    """``torch.save`` in the training loop, synced to the disk."""

    def __init__(self, folder: Path) -> None:
        self.durable_s: list[float] = []
        self._path = folder / "torch_save.pt"

    def save(self, state: dict[str, Any], step: int) -> None:  # noqa: ARG002 - one file
        """Save a state."""
        self.durable_s.append(save_torch(state, self._path))

    def before_optimizer(self) -> None:
        """Nothing is under way."""

    def is_ready(self) -> bool:
        """Whether the next state may be saved: always."""
        return True

    def finish(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


class DeepCopyAndSave:
    """``copy.deepcopy`` in the training loop, ``torch.save`` in a thread: as written by hand."""

    def __init__(self, folder: Path) -> None:
        self.durable_s: list[float] = []
        self._path = folder / "deepcopy.pt"
        self._thread: threading.Thread | None = None

    def save(self, state: dict[str, Any], step: int) -> None:  # noqa: ARG002 - one file
        """Copy a state and start a thread that saves it."""
        begun_s = time.perf_counter()
        copied = copy.deepcopy(state)

        def save() -> None:
            save_torch(copied, self._path)
            self.durable_s.append(time.perf_counter() - begun_s)

        self._thread = threading.Thread(target=save)
        self._thread.start()

    def before_optimizer(self) -> None:
        """The copy is complete."""

    def is_ready(self) -> bool:
        """Whether the next state may be saved: one at a time."""
        return self._thread is None or not self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the thread, remove the file."""
        if self._thread is not None:
            self._thread.join()
        self._path.unlink(missing_ok=True)


class DistributedSave:
    """``torch.distributed.checkpoint.async_save``, one process.

    Args:
        folder: Where its folders go.
        executor: What writes: a thread, or a process.
        keep: One stager for all calls, which keeps its memory; with a process in shared memory,
            as its documentation advises. Without, every call makes its own.
        overlap: The stager copies in a thread of its own, and the optimizer waits for it. The
            documentation has this for CUDA alone.
    """

    def __init__(
        self,
        folder: Path,
        executor: AsyncCheckpointerType,
        *,
        keep: bool = False,
        overlap: bool = False,
    ) -> None:
        self.durable_s: list[float] = []
        self._folder = folder / f"dcp-{executor.value}-{keep}-{overlap}"
        self._executor, self._stager = executor, None
        if keep:
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=False,
                    use_shared_memory=executor is AsyncCheckpointerType.PROCESS,
                    use_async_staging=overlap,
                    use_non_blocking_copy=False,
                )
            )
        self._staged: Future[Any] | None = None
        self._stored: Future[Any] | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Stage a state and have it written."""
        begun_s = time.perf_counter()
        answer = dcp.async_save(
            state,
            checkpoint_id=self._folder / str(step),
            async_checkpointer_type=self._executor,
            async_stager=self._stager,
        )
        if isinstance(answer, Future):
            self._stored = answer
        else:
            self._staged, self._stored = answer.staging_completion, answer.upload_completion
        self._stored.add_done_callback(
            lambda _: self.durable_s.append(time.perf_counter() - begun_s)
        )

    def before_optimizer(self) -> None:
        """Wait until staging is complete."""
        if self._staged is not None:
            self._staged.result()
            self._staged = None

    def is_ready(self) -> bool:
        """Whether the next state may be saved: one at a time."""
        return self._stored is None or self._stored.done()

    def finish(self) -> None:
        """Wait until it is written, remove it."""
        if self._stored is not None:
            self._stored.result()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Give the stager's memory back."""
        if self._stager is not None:
            self._stager.close()


def save_torch(state: dict[str, Any], path: Path) -> float:
    """Write a ``.pt`` and sync it; seconds that it took."""
    begun_s = time.perf_counter()
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begun_s


def single_process_group() -> None:
    """A group of this process alone, which the process executor needs."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
