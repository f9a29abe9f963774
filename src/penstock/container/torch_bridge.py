"""Torch, looked up only when a checkpoint holds tensors: a server never needs it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from penstock.errors import Unsupported

__all__ = ["TORCH_ITEM_SIZES", "loaded_torch", "require_torch"]

TORCH_ITEM_SIZES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes per element of every dtype a checkpoint may hold, by its name without ``torch.``."""


def loaded_torch() -> Any | None:
    """Torch if this process has imported it, else None: without it no value can be a tensor."""
    return sys.modules.get("torch")


def require_torch(purpose: str) -> Any:
    """Import torch.

    Args:
        purpose: What it is needed for, for the message.

    Raises:
        Unsupported: Torch is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        message = f"{purpose} needs torch, which is not installed: pip install 'penstock[trainer]'"
        raise Unsupported(message, reason="TORCH_MISSING") from error
