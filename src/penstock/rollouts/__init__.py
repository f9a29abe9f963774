"""Rollouts for collectors and trainers: storage, collecting in the background, advice.

storage      rollouts by iteration, in a directory or on a server
collector    wraps a collector: copies, then encodes and stores in the background
collected    one rollout: data, minibatches, what became of it
background   the queue between the two, and its policies
snapshots    copies in memory that is used again
history      the newest rollouts in memory, encoded
advising     which encoding is fastest to a target
encodings    how an encoding is named
selecting    how a part of a rollout is named
tensors      nested dicts of arrays and tensors, TensorDicts
old_files    pickles inside LZ4 frames, read to be converted once
cli          ``penstock rollouts``
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client.rollout import RolloutClient, open_rollouts
    from penstock.rollout_file import Encoding
    from penstock.rollouts.advising import Advice, Advisor, advise
    from penstock.rollouts.collected import CollectedBatch
    from penstock.rollouts.collector import CompressedDataCollector
    from penstock.rollouts.storage import RolloutStorage

__all__ = [
    "Advice",
    "Advisor",
    "CollectedBatch",
    "CompressedDataCollector",
    "Encoding",
    "RolloutClient",
    "RolloutStorage",
    "advise",
    "open_rollouts",
]

_HOME = {
    "Advice": "penstock.rollouts.advising",
    "Advisor": "penstock.rollouts.advising",
    "CollectedBatch": "penstock.rollouts.collected",
    "CompressedDataCollector": "penstock.rollouts.collector",
    "Encoding": "penstock.rollout_file",
    "RolloutClient": "penstock.client.rollout",
    "RolloutStorage": "penstock.rollouts.storage",
    "advise": "penstock.rollouts.advising",
    "open_rollouts": "penstock.client.rollout",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: help of the command line needs no gRPC."""
    if name not in _HOME:
        raise AttributeError(f"module 'penstock.rollouts' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
