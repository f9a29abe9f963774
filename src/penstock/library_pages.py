"""Pages of shared libraries, which count as memory of every process that has touched them.

Loading touches most of a library: its symbols are looked up, and all of its objects are made. With
those of images, videos and tables that is 100 MB, of which work needs half. The rest is a copy
of files that nobody needs, and the system is slow to take back pages that are mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["let_go_of_libraries"]


def let_go_of_libraries() -> None:
    """Unmap the code of all libraries, once they are loaded; only on Linux.

    What is used again is mapped again, at the price of a fault for each 64 kB: the system keeps it
    in its cache of files, as before.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, end in list(_code()):
        madvise(begin, end - begin, mmap.MADV_DONTNEED)


def _code() -> Iterator[tuple[int, int]]:
    """Where code is mapped, and the tables of symbols that a file begins with.

    Other parts that can only be read now hold what loading wrote there; where it wrote to these as
    well, as it must for code that cannot lie anywhere, they are left alone.
    """
    found: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word, *rest = line.split(maxsplit=5)
        if word == "Anonymous:":
            if found and int(rest[0]) == 0:
                yield found
            found = None
        elif not word.endswith(":"):
            rights, offset, *_, path = (*rest, "") if len(rest) < 5 else rest  # noqa: PLR2004 - with a path
            first = rights == "r--p" and not int(offset, 16)
            if path.startswith("/") and (rights == "r-xp" or first):
                begin, end = word.split("-")
                found = int(begin, 16), int(end, 16)
