"""Settings of the C library's allocator that keep the memory of messages and images mapped.

Each message or image of about 1 MB is allocated and freed, by clients, servers and conversions.
With the defaults of glibc that memory goes back to the system every time, and the next one pays for
fresh pages: a batch takes up to twice as long. Only glibc on Linux is touched;
``PENSTOCK_MALLOPT=0`` leaves it as it is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = [
    "give_back_memory",
    "heap_given_back",
    "hold_in_heap",
    "keep_message_memory",
    "share_heap",
]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_MMAP_THRESHOLD_BYTES = 32 << 20
"""The largest that glibc takes: messages come from its heaps, not from mappings of their own."""
_TOP_PAD_BYTES = 1 << 20
_LARGE_BYTES = 256 << 10
_TRIM_BYTES = 128 << 10
"""What glibc begins with."""
_HEAD_BYTES = 4096
"""What a block has besides what was asked for, and more."""
_KEPT_BYTES = 64 << 20
"""More than a few images, decoded and on their way."""

_held_bytes = 0
"""Blocks up to that size come from the one heap, beyond what does anyhow."""


@functools.cache
def keep_message_memory(kept_bytes: int = 512 << 20, *, heaps: int) -> bool:
    """Set the allocator up; returns whether it was.

    Args:
        kept_bytes: Free memory at the end of a heap up to which nothing is given back.
        heaps: That threads share at most, unless there are more already. One takes least memory,
            as each keeps the most that any of its threads ever needed. But a message grows piece by
            piece while it arrives, which is copied again and again where something else of the
            program lies behind it.
    """
    mallopt = getattr(_library(), "mallopt", None)
    settings = [
        (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, kept_bytes),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
        (_M_ARENA_MAX, heaps),
    ]
    return mallopt is not None and all(mallopt(name, value) for name, value in settings)


@functools.cache
def share_heap() -> bool:
    """Let all threads allocate from one heap, large blocks by themselves; returns whether they do.

    For work whose memory matters more than its speed: heaps of threads each keep free memory, and
    so does one in which blocks of all sizes mix.
    """
    mallopt = getattr(_library(), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, 1)) and _map_alone(mallopt)


def hold_in_heap(size_bytes: int) -> None:
    """Let blocks up to ``size_bytes`` come from the heap of :func:`share_heap`, if there is one.

    For images, which come and go: mapped alone, one of 640x480 is 225 fresh pages each time, which
    takes as long as a fifth of decoding and encoding it. What is larger, and grows, stays apart.
    """
    global _held_bytes  # noqa: PLW0603 - the allocator is the process's, and cannot be asked
    mallopt = _mallopt_of_one_heap()
    if mallopt is not None and size_bytes + _HEAD_BYTES > max(_held_bytes, _LARGE_BYTES):
        _held_bytes = min(size_bytes + _HEAD_BYTES, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _held_bytes)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def heap_given_back() -> Generator[None]:
    """Undo :func:`hold_in_heap` at the end, and give back what is free."""
    global _held_bytes  # noqa: PLW0603 - see above
    try:
        yield
    finally:
        mallopt = _mallopt_of_one_heap()
        if mallopt is not None:
            _held_bytes = 0
            _map_alone(mallopt)
            give_back_memory()


def _mallopt_of_one_heap() -> Callable[[int, int], int] | None:
    """None where heaps are many, or nothing may be touched."""
    shared = share_heap.cache_info().currsize and share_heap()
    return ctypes.CDLL(None).mallopt if shared else None


def _map_alone(mallopt: Callable[[int, int], int]) -> bool:
    settings = [(_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_TRIM_THRESHOLD, _TRIM_BYTES)]
    return all(mallopt(name, value) for name, value in settings)


def give_back_memory() -> None:
    """Return free memory to the system: after work that will not come again soon.

    What is still used keeps whole heaps from shrinking; the free pages between are given back. The
    end of a heap is not, but for that of the first one, so this does little where there are many.
    """
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _library() -> ctypes.CDLL | None:
    """The C library, where it is glibc on Linux and may be touched."""
    if os.environ.get("PENSTOCK_MALLOPT") == "0":
        return None
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
