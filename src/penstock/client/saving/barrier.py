"""Keeps writers away from a state while its snapshot is being completed."""

from __future__ import annotations

import importlib
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from penstock.container.torch_bridge import loaded_torch

__all__ = ["Barrier"]


class Barrier:
    """Every optimizer of the process waits at its next step until a snapshot is complete.

    Version counters of tensors would not do: fused optimizers, ``p.data``, NumPy and the running
    statistics of batch normalisation do not move them.

    Args:
        on_wait: Told how long somebody waited, in seconds.
        on_pass: Called before a writer goes on, snapshot complete.

    Attributes:
        steps: Of optimizers so far; 0 says that nobody here waits at a barrier.
    """

    def __init__(self, on_wait: Callable[[float], None], on_pass: Callable[[], None]) -> None:
        self._on_wait, self._on_pass = on_wait, on_pass
        self._complete = threading.Event()
        self._complete.set()
        self._hook: Any = None
        self._events: Sequence[Any] = ()
        self.steps = 0
        # Threads replace the list while another one reads it: a set would not stand that.
        self._optimizers: list[weakref.ref[Any]] = []

    def note(self, optimizer: Any) -> None:
        """An optimizer steps."""
        if all(known() is not optimizer for known in self._optimizers):
            # Two threads may lose one here, whose tensors are then copied in the call.
            alive = [known for known in self._optimizers if known() is not None]
            self._optimizers = [*alive, weakref.ref(optimizer)]

    def stepped(self) -> dict[int, int]:
        """Address and bytes of the CPU tensors that the steps of these optimizers write."""
        torch = loaded_torch()
        if torch is None:
            return {}
        tensors: list[Any] = []
        for known in self._optimizers:
            optimizer = known()
            if optimizer is None:
                continue
            for group in optimizer.param_groups:
                tensors += group["params"]
            for state in list(optimizer.state.values()):
                values = list(state.values()) if isinstance(state, dict) else []
                tensors += [value for value in values if isinstance(value, torch.Tensor)]
        found: dict[int, int] = {}
        for tensor in tensors:
            if tensor.device.type == "cpu" and tensor.layout == torch.strided:
                # Parameters of lazy modules have no memory yet.
                with suppress(RuntimeError, ValueError):
                    found[tensor.data_ptr()] = tensor.nbytes
        return found

    def watch_optimizers(self) -> None:
        """From now on optimizers wait; does nothing while torch is not loaded."""
        if self._hook is not None or loaded_torch() is None:
            return
        # By its own name: torch.optim does not keep it as an attribute.
        optimizer = importlib.import_module("torch.optim.optimizer")
        this = weakref.ref(self)

        def before_step(stepping: Any, *_: object) -> None:
            barrier = this()
            if barrier is not None:
                barrier.steps += 1
                barrier.note(stepping)
                barrier.wait()

        self._hook = optimizer.register_optimizer_step_pre_hook(before_step)

    def close(self) -> None:
        """Let optimizers alone."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def begin(self) -> None:
        """A snapshot is being completed."""
        self._events = ()
        self._complete.clear()

    def end(self, events: Sequence[Any] = ()) -> None:
        """It is complete, or given up; or will be when the device has reached some events."""
        self._events = events
        self._complete.set()

    def wait_for_copy(self) -> None:
        """Wait until the snapshot under way is complete, as part of taking it."""
        self._complete.wait()

    def wait(self) -> None:
        """Wait until the snapshot under way is complete."""
        if not self._complete.is_set():
            begun_s = time.perf_counter()
            self._complete.wait()
            self._on_wait(time.perf_counter() - begun_s)
        torch, events = loaded_torch(), self._events
        if torch is not None:
            for event in events:
                # The device waits, this thread does not.
                torch.cuda.current_stream().wait_event(event)
        self._on_pass()

    @contextmanager
    def guard(self) -> Generator[None]:
        """Wait, then write to the state inside the block."""
        self.wait()
        yield
