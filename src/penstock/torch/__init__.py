"""Penstock for PyTorch: the only package of the SDK that imports it."""

from penstock.torch.batches import BatchDataset, to_tensors
from penstock.torch.pinned import as_tensor, pinned_allocator
from penstock.torch.replay import AsyncSampler, MultimodalReplayBuffer

__all__ = [
    "AsyncSampler",
    "BatchDataset",
    "MultimodalReplayBuffer",
    "as_tensor",
    "pinned_allocator",
    "to_tensors",
]
