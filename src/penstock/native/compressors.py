"""LZ4 and zstd for the kernels: the C functions of the Python packages, called by their addresses.

Segments of rollouts are transformed, compressed and hashed while they are in a core's cache, many
in one call, so the kernels need the functions themselves. The packages' own extensions export them,
or link to the libraries that do.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from functools import lru_cache

import lz4.block

__all__ = ["address_of", "lz4_address", "lz4_compress", "zstd_library"]

_LZ4 = "lz4.block._block"
_ZSTD = "_zstd" if sys.version_info >= (3, 14) else "backports.zstd._zstd"
_ZSTD_NAMES = (
    *("ZSTD_compressCCtx", "ZSTD_decompressDCtx"),
    *("ZSTD_createCCtx", "ZSTD_freeCCtx", "ZSTD_createDCtx", "ZSTD_freeDCtx"),
)

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def lz4_address() -> int:
    """Where ``LZ4_compress_fast`` is; 0 without."""
    library = _load(_LZ4, ("LZ4_compress_fast",))
    return 0 if library is None else address_of(library, "LZ4_compress_fast")


def lz4_compress(data: bytes, acceleration: int) -> bytes:
    """An LZ4 block without its size, the same that the kernels get.

    Where they get none, the package's own way, which finds other matches.
    """
    found = lz4_address()
    if not found:
        return lz4.block.compress(data, mode="fast", acceleration=acceleration, store_size=False)
    number = ctypes.c_int
    call = ctypes.CFUNCTYPE(number, ctypes.c_char_p, ctypes.c_void_p, number, number, number)
    out = ctypes.create_string_buffer(len(data) + len(data) // 128 + 1024)
    size = call(found)(data, out, len(data), len(out), acceleration)
    return out.raw[:size]


@lru_cache(maxsize=1)
def zstd_library() -> ctypes.CDLL | None:
    """What has the functions of zstd, contexts included; None without."""
    library = _load(_ZSTD, _ZSTD_NAMES)
    if library is not None:
        for name in ("ZSTD_createCCtx", "ZSTD_createDCtx"):
            getattr(library, name).restype = ctypes.c_void_p
        for name in ("ZSTD_freeCCtx", "ZSTD_freeDCtx"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


def address_of(library: ctypes.CDLL, name: str) -> int:
    """Where a function of a library is."""
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _load(extension: str, names: tuple[str, ...]) -> ctypes.CDLL | None:
    try:
        found = importlib.util.find_spec(extension)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        return _absent(extension, "it is not there")
    try:
        library = ctypes.CDLL(None if found.origin == "built-in" else found.origin)
    except OSError as error:
        return _absent(extension, str(error))
    missing = [name for name in names if not hasattr(library, name)]
    if missing:
        return _absent(extension, f"it does not export {', '.join(missing)}")
    return library


def _absent(extension: str, why: str) -> None:
    _log.warning(
        "%s does not give its functions to the native kernels (%s). Rollouts are encoded and "
        "decoded by NumPy instead: the same bytes, tens of times slower.",
        *(extension, why),
    )
