"""Other layouts: arrays as they lie in memory, and Blosc2, one thread.

A block is a whole array, so there is no part of it to be had; nothing has a hash. Of Blosc2 the
byte shuffle at its best levels is timed: the bit shuffle made larger files here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import blosc2
import lz4.frame
import numpy as np
from backports import zstd
from worker import Codec, Leaves, Peer, serve

_Encoded = dict[str, tuple[np.dtype[Any], tuple[int, ...], bytes]]


class ByArray:
    """Each array compressed on its own."""

    def __init__(
        self,
        compress: Callable[[np.ndarray[Any, Any]], bytes],
        decompress: Callable[[bytes], bytes],
    ) -> None:
        self._compress, self._decompress = compress, decompress

    def encode(self, native: Leaves) -> _Encoded:
        """Compress."""
        return {path: (a.dtype, a.shape, self._compress(a)) for path, a in native.items()}

    def size_bytes(self, encoded: _Encoded) -> int:
        """Bytes of the compressed arrays."""
        return sum(len(data) for _, _, data in encoded.values())

    def decode(self, encoded: _Encoded) -> Leaves:
        """Decompress."""
        return {
            path: np.frombuffer(self._decompress(data), dtype).reshape(shape)
            for path, (dtype, shape, data) in encoded.items()
        }


def _lz4(array: np.ndarray[Any, Any]) -> bytes:
    return lz4.frame.compress(array.reshape(-1).view(np.uint8).data)


def _zstd(array: np.ndarray[Any, Any]) -> bytes:
    return zstd.compress(array.reshape(-1).view(np.uint8).data, level=1)


def _blosc2(shuffle: blosc2.Filter, codec: blosc2.Codec, level: int) -> ByArray:
    def compress(array: np.ndarray[Any, Any]) -> bytes:
        return blosc2.compress2(
            array.reshape(-1).view(np.uint8),
            typesize=array.itemsize,
            codec=codec,
            clevel=level,
            filters=[shuffle],
            filters_meta=[0],
            nthreads=1,
        )

    return ByArray(compress, lambda data: blosc2.decompress2(data, nthreads=1))


class LayoutsPeer(Peer):
    """Layouts without Penstock's."""

    codecs: Mapping[str, Codec] = {
        "natural_lz4": ByArray(_lz4, lz4.frame.decompress),
        "natural_zstd": ByArray(_zstd, zstd.decompress),
        "blosc2_lz4": _blosc2(blosc2.Filter.SHUFFLE, blosc2.Codec.LZ4, 9),
        "blosc2_zstd": _blosc2(blosc2.Filter.SHUFFLE, blosc2.Codec.ZSTD, 1),
    }


if __name__ == "__main__":
    serve(LayoutsPeer())
