"""Settings of the C library's allocator that keep the memory of messages mapped.

Each message of about 1 MB is allocated and freed. With the defaults of glibc that memory goes back
to the system every time, and the next message pays for fresh pages: a batch takes up to twice as
long. Only glibc on Linux is touched, once per process; ``PENSTOCK_MALLOPT=0`` leaves it as it is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys

__all__ = ["keep_message_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = (
    # The largest that glibc takes: messages come from its heaps, not from mappings of their own.
    (_M_MMAP_THRESHOLD, 32 << 20),
    # Memory at the end of a heap is given back only when there is this much of it.
    (_M_TRIM_THRESHOLD, 512 << 20),
    (_M_TOP_PAD, 16 << 20),
)


@functools.cache
def keep_message_memory() -> bool:
    """Set the allocator up; returns whether it was."""
    if os.environ.get("PENSTOCK_MALLOPT") == "0":
        return False
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in _SETTINGS)
