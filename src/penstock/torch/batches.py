"""Whole batches of a plan as tensors, for a training loop or a DataLoader.

from penstock.torch import BatchDataset
dataset = BatchDataset("grpc://localhost:50051", Plan(batch_size=256), image_size=(224, 224))
for batch in dataset:
    loss = model(batch["frames"].to("cuda", non_blocking=True), batch["joint"].to("cuda"))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from penstock.batch import Batch
from penstock.client.channel import RETRY_S
from penstock.client.sampler import open_sampler
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.torch.pinned import as_tensor, pinned_allocator

__all__ = ["BatchDataset", "to_tensors"]


def to_tensors(batch: Batch) -> dict[str, Any]:
    """A batch as tensors that share its memory.

    Returns:
        ``frames (B, 2, C, H, W, 3) uint8``, ``joint``, ``next_joint``, ``action``, ``reward``
        (float32), ``terminal`` (bool), ``transition_ids`` (int64) and the integer ``step``. With
        windows of K transitions ``(windows, K, ...)`` each, and ``mask (windows, K) bool``.
    """
    if batch.window > 1:
        arrays = batch.windowed
    else:
        arrays = {"frames": batch.frames, **batch.columns, "transition_ids": batch.transition_ids}
    tensors: dict[str, Any] = {name: as_tensor(values) for name, values in arrays.items()}
    tensors["step"] = batch.step
    return tensors


class BatchDataset(IterableDataset[dict[str, Any]]):
    """Yields whole batches of a plan, without end, from any target.

    It prefetches by itself; a DataLoader is not needed. In one, pass ``batch_size=None``: worker
    ``i`` of ``n`` then yields every n-th step, so the loader gives the steps in order.

    Args:
        target: A sampler target, see :func:`penstock.open_sampler`.
        plan: What to sample.
        image_size: Height and width in pixels; None leaves images as stored.
        prefetch: Batches that may wait for their use.
        retry_s: Seconds to wait for a service that is away; None for the client's default.
        pin_memory: Whether frames lie in page-locked memory, from which a GPU copies while
            training goes on (``non_blocking=True``); None where there is a GPU.
    """

    def __init__(
        self,
        target: str,
        plan: Plan,
        *,
        image_size: tuple[int, int] | None = None,
        prefetch: int = 4,
        retry_s: float | None = None,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        self.target, self.plan = target, plan
        self.image_size, self.prefetch, self.retry_s = image_size, prefetch, retry_s
        self.pin_memory = pin_memory
        self._next_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Plan and position; inside DataLoader workers use ``batch["step"] + 1`` as position."""
        return {"plan": self.plan.to_dict(), "next_step": self._next_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the step after the last one that was yielded.

        Raises:
            InvalidInput: The state is of another plan.
        """
        if Plan.from_dict(state["plan"]) != self.plan:
            raise InvalidInput(
                f"the saved position is of the plan {state['plan']}, this dataset has "
                f"{self.plan.to_dict()}: open it with the saved plan",
                field="plan",
            )
        self._next_step = int(state["next_step"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Open the target in the process that iterates, then yield step by step."""
        worker = get_worker_info()
        with open_sampler(
            self.target,
            image_size=self.image_size,
            retry_s=RETRY_S if self.retry_s is None else self.retry_s,
            allocate=pinned_allocator(wanted=self.pin_memory),
        ) as sampler:
            steps = sampler.batches(
                self.plan,
                self._next_step + (worker.id if worker else 0),
                stride=worker.num_workers if worker else 1,
                prefetch=self.prefetch,
            )
            for batch in steps:
                self._next_step = batch.step + 1
                yield to_tensors(batch)
