"""Reading chunks that earlier versions wrote with Blosc2; nothing is written with it any more."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from penstock.errors import Corrupt, Unsupported

__all__ = ["blosc2_decode"]


def blosc2_decode(stored: bytes, size_bytes: int) -> bytes:
    """Decode a Blosc2 chunk to ``size_bytes``.

    Raises:
        Corrupt: It claims another size, or does not decode.
        Unsupported: Blosc2 is not installed.
    """
    blosc2 = _blosc2()
    try:
        claimed_raw, claimed_stored, _ = blosc2.get_cbuffer_sizes(stored)
        if claimed_raw != size_bytes or claimed_stored != len(stored):
            message = (
                f"a Blosc2 chunk of {len(stored)} bytes claims to be {claimed_stored} bytes that "
                f"decode to {claimed_raw}, its index says {size_bytes}"
            )
            raise Corrupt(message, reason="CHUNK_SIZE")
        raw: bytes = blosc2.decompress2(stored, nthreads=1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise Corrupt(f"a Blosc2 chunk does not decode: {error}", reason="CHUNK_CODEC") from error
    return raw


@cache
def _blosc2() -> Any:
    # Importing Blosc2 takes about a second: only those who read its chunks pay for it.
    try:
        return importlib.import_module("blosc2")
    except ImportError as error:
        raise Unsupported(
            "an earlier version of penstock wrote it with blosc2, which is not installed: "
            "pip install blosc2",
            reason="BLOSC2_MISSING",
        ) from error
