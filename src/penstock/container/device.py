"""Copies of tensors on a CUDA device, made by it while training goes on.

The call only orders what cannot wait: small tensors are copied on the device, by the stream that
training runs on. All else is copied to the host by a stream of its own, and the next step of an
optimizer is made to wait for it on the device; the program itself waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.container.tensors import SMALL_BYTES, bytes_of
from penstock.container.torch_bridge import require_torch

__all__ = ["DeviceCopies", "lock_pages", "unlock_pages"]


class DeviceCopies:
    """Copies from one CUDA device.

    Args:
        torch: The module.
        sources: Tensor and window (see ``bytes_of``) of each storage.
        offsets: ``where`` each goes in a buffer.
    """

    def __init__(
        self,
        torch: Any,
        sources: Sequence[tuple[Any, tuple[int, int] | None]],
        offsets: Sequence[int],
    ) -> None:
        self._torch = torch
        # A tensor with holes is looked at as a whole only on the device, and then at once.
        self._views = [
            None if window is None else bytes_of(torch, tensor, window)
            for tensor, window in sources
        ]
        self._sources, self._offsets = sources, offsets
        small = [
            number
            for number, (_, window) in enumerate(sources)
            if window is not None and window[1] - window[0] <= SMALL_BYTES
        ]
        self._small_views = [self._views[number] for number in small]
        self._scratch = [torch.empty_like(view) for view in self._small_views]
        for number, scratch in zip(small, self._scratch, strict=True):
            self._views[number] = scratch
        device = sources[0][0].device
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._ordered: Any = None
        self._gathered: dict[int, Any] = {}

    def take(self) -> None:
        """Order the copies that may not wait."""
        torch = self._torch
        with torch.cuda.device(self._device):
            if self._scratch:
                torch._foreach_copy_(self._scratch, self._small_views)
            self._gathered = {
                number: bytes_of(torch, tensor.contiguous().clone(), None)
                for number, (tensor, window) in enumerate(self._sources)
                if window is None
            }
            self._ordered = torch.cuda.Event()
            self._ordered.record()

    def stage(self, out: npt.NDArray[np.uint8]) -> Any:
        """Order all other copies; returns the event that is reached when they are done.

        Args:
            out: The buffer; page-locked, or the copies are made one by one.
        """
        torch = self._torch
        host = torch.from_numpy(out)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._ordered)
            for number, (view, offset) in enumerate(zip(self._views, self._offsets, strict=True)):
                source = self._gathered[number] if view is None else view
                host[offset : offset + source.numel()].copy_(source, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        return done


def lock_pages(memory: npt.NDArray[np.uint8]) -> bool:
    """Lock memory, so that a device copies to it by itself; False where it cannot be locked."""
    torch = require_torch("page-locked memory")
    address = memory.__array_interface__["data"][0]
    return int(torch.cuda.cudart().cudaHostRegister(address, memory.nbytes, 0)) == 0


def unlock_pages(memory: npt.NDArray[np.uint8]) -> None:
    """Undo ``lock_pages``."""
    torch = require_torch("page-locked memory")
    torch.cuda.cudart().cudaHostUnregister(memory.__array_interface__["data"][0])
