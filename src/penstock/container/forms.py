"""What a plan knows tensors and arrays again by, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["addresses_of", "form_of", "other_form"]


def addresses_of(torch: Any | None, tensors: Sequence[Any]) -> list[int]:
    """Where the data of each tensor begins.

    Raises:
        RuntimeError: One has no memory of its own, e.g. a sparse one.
    """
    return [] if torch is None else list(map(torch.Tensor.data_ptr, tensors))


def form_of(tensor: Any) -> tuple[Any, ...]:
    """What the entry of a tensor follows from, besides the memory it shares."""
    return (
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        str(tensor.device),
        tensor.requires_grad and tensor.is_leaf,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def other_form(value: Any) -> Any:
    """The same of a byte string or an array."""
    if isinstance(value, bytes):
        return len(value)
    return value.dtype, value.shape
