"""Penstock: the data plane of robot learning, from what robots record to the GPU that learns."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.batch import Batch, FrameSpec
    from penstock.client.checkpoint import CheckpointClient, load_checkpoint, open_checkpoints
    from penstock.client.converter import ConverterClient, open_converter
    from penstock.client.sampler import SamplerClient, open_sampler
    from penstock.client.saving import AsyncCheckpointSaver, TornSnapshot
    from penstock.client.trainer import TrainerClient, open_trainer
    from penstock.errors import PenstockError
    from penstock.monitor import PerformanceMonitor, format_checkpoint_name
    from penstock.plan import Plan
    from penstock.retention import KeepBest, RetentionPolicy

__all__ = [
    "AsyncCheckpointSaver",
    "Batch",
    "CheckpointClient",
    "ConverterClient",
    "FrameSpec",
    "KeepBest",
    "PenstockError",
    "PerformanceMonitor",
    "Plan",
    "RetentionPolicy",
    "SamplerClient",
    "TornSnapshot",
    "TrainerClient",
    "format_checkpoint_name",
    "load_checkpoint",
    "open_checkpoints",
    "open_converter",
    "open_sampler",
    "open_trainer",
]

_HOME = {
    "AsyncCheckpointSaver": "penstock.client.saving",
    "Batch": "penstock.batch",
    "CheckpointClient": "penstock.client.checkpoint",
    "ConverterClient": "penstock.client.converter",
    "FrameSpec": "penstock.batch",
    "KeepBest": "penstock.retention",
    "PenstockError": "penstock.errors",
    "PerformanceMonitor": "penstock.monitor",
    "Plan": "penstock.plan",
    "RetentionPolicy": "penstock.retention",
    "SamplerClient": "penstock.client.sampler",
    "TornSnapshot": "penstock.client.saving",
    "TrainerClient": "penstock.client.trainer",
    "format_checkpoint_name": "penstock.monitor",
    "load_checkpoint": "penstock.client.checkpoint",
    "open_checkpoints": "penstock.client.checkpoint",
    "open_converter": "penstock.client.converter",
    "open_sampler": "penstock.client.sampler",
    "open_trainer": "penstock.client.trainer",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing Penstock costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
