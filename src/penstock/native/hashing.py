"""XXH3-64 for the kernels: the C function of the xxhash package, which they call by its address.

Records are hashed between reading and decoding, while they are in a core's cache, so the kernels
need the function itself. The package's own extension exports it, or links to the library that does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from functools import lru_cache

import xxhash

__all__ = ["xxh3_address"]

_EXTENSION = "xxhash._xxhash"
_NAMES = ("XXH3_64bits_withSeed_dispatch", "XXH3_64bits_withSeed")
"""The first one chooses among the CPU's instructions; not every build has it."""

_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
_PROBES, _SEED = (b"x", b"penstock" * 12, bytes(range(1, 256)) * 4), 2**63 + 1
"""Lengths that are hashed in different ways."""

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def xxh3_address() -> int:
    """Where ``uint64_t f(const void *data, size_t size, uint64_t seed)`` is; 0 without."""
    extension = importlib.util.find_spec(_EXTENSION)
    if extension is None or extension.origin is None:
        return _absent(f"{_EXTENSION} is not there")
    try:
        library = ctypes.CDLL(extension.origin)
    except OSError as error:
        return _absent(str(error))
    expected = [xxhash.xxh3_64_intdigest(probe, _SEED) for probe in _PROBES]
    for name in _NAMES:
        if hasattr(library, name):
            function = _FUNCTION((name, library))
            if [function(probe, len(probe), _SEED) for probe in _PROBES] == expected:
                return ctypes.cast(function, ctypes.c_void_p).value or 0
    return _absent(f"it exports none of {', '.join(_NAMES)} as it should")


def _absent(why: str) -> int:
    _log.warning(
        "The xxhash package does not give its function to the native kernels (%s). Cached frames "
        "are checked one by one instead: the same bytes, slower.",
        why,
    )
    return 0
