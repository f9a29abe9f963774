"""Page-locked memory for batches, from which a GPU copies by itself while training goes on."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from penstock.client.sampler import Allocate

__all__ = ["as_tensor", "pinned_allocator"]

# By address. NumPy's arrays keep the tensors that they were made from alive.
_PINNED: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()


def pinned_allocator(*, wanted: bool | None = None) -> Allocate | None:
    """Where frames of a process should lie; None for ordinary memory.

    The memory is PyTorch's own page-locked memory. PyTorch knows which copies still read a piece
    of it (``tensor.to("cuda", non_blocking=True)``) and gives it out again only when they are
    over, also when nobody has looked at the batch for long.

    Args:
        wanted: None pins where that helps: where there is a GPU, but not in the workers of a
            DataLoader, which must not touch it. True pins in any case.

    Raises:
        RuntimeError: ``wanted`` is true, and PyTorch has no GPU; raised by the first batch.
    """
    if wanted is None:
        wanted = torch.cuda.is_available() and get_worker_info() is None
    return _pinned if wanted else None


def as_tensor(values: NDArray[Any]) -> torch.Tensor:
    """An array as a tensor over the same memory.

    Over page-locked memory it is a view of PyTorch's own tensor, by which PyTorch also knows the
    copies of a part of it.
    """
    owner = _PINNED.get(values.__array_interface__["data"][0])
    if owner is None or values.dtype != np.uint8 or not values.flags.c_contiguous:
        return torch.from_numpy(values)
    return owner[: values.nbytes].view(values.shape)


def _pinned(size_bytes: int) -> NDArray[np.uint8]:
    memory = _page_locked(size_bytes)
    values = memory.numpy()
    _PINNED[memory.data_ptr()] = memory
    return values


def _page_locked(size_bytes: int) -> torch.Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
