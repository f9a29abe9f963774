"""Penstock for PyTorch: the only package of the SDK that imports it."""

from penstock.torch.batches import BatchDataset, to_tensors
from penstock.torch.model_info import ModelSize, get_model_size, print_model_info
from penstock.torch.pinned import as_tensor, pinned_allocator
from penstock.torch.replay import AsyncSampler, MultimodalReplayBuffer

__all__ = [
    "AsyncSampler",
    "BatchDataset",
    "ModelSize",
    "MultimodalReplayBuffer",
    "as_tensor",
    "get_model_size",
    "pinned_allocator",
    "print_model_info",
    "to_tensors",
]
