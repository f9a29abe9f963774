"""Decoding HDF5 chunks without the HDF5 library, in any thread.

Known are deflate (``gzip``), LZF, LZ4 (registered filter 32004) and Blosc (32001), each after the
byte shuffle of one-byte values, which changes nothing. Anything else is left to the library.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import hdf5plugin
import lz4.block
import numpy as np
from numpy.typing import NDArray

from penstock import native
from penstock.errors import Corrupt

__all__ = ["NeedsHdf5", "Pipeline", "read_pipeline"]

Bytes = NDArray[np.uint8]

_LZF, _BLOSC, _LZ4 = 32000, 32001, 32004
_BLOSC_HEADER_BYTES = 16
_LZ4_HEADER_BYTES = 12


class NeedsHdf5(Exception):
    """These data are stored in a way that is left to the HDF5 library; the text says which."""


@dataclass(frozen=True)
class Pipeline:
    """The filters of a dataset.

    Attributes:
        name: Of the compressor; empty where there is none.
        decode: Decompresses its first argument into exactly the second, both ``(n,) uint8``; None
            where there is no compressor.
        skipped_by: Bit of a chunk's filter mask that says that the chunk is not compressed.
    """

    name: str = ""
    decode: Callable[[Bytes, Bytes], None] | None = None
    skipped_by: int = 0

    def run(self, data: Bytes, mask: int, out: Bytes) -> None:
        """Undo the filters of one chunk.

        Args:
            data: ``(n,) uint8``, the chunk as stored.
            mask: Its filter mask.
            out: ``(m,) uint8``, filled.

        Raises:
            Corrupt: The data do not give exactly ``m`` bytes.
        """
        if self.decode is not None and not mask & self.skipped_by:
            self.decode(data, out)
        elif data.size == out.size:
            out[:] = data
        else:
            raise Corrupt(f"a chunk has {data.size} bytes: expected {out.size}")


def read_pipeline(created: h5py.h5p.PropDCID) -> Pipeline:
    """The filters that a dataset was created with.

    Args:
        created: Its creation properties.

    Raises:
        NeedsHdf5: One of them is not decoded here.
    """
    found = Pipeline()
    for place in range(created.get_nfilters()):
        code, _, values, _ = created.get_filter(place)
        if code == h5py.h5z.FILTER_SHUFFLE and (not values or values[0] == 1):
            continue
        if found.decode is not None or code not in _DECODERS:
            raise NeedsHdf5(f"filter {code} is decoded by the HDF5 library")
        name, decode = _DECODERS[code]
        if code == _LZF and not native.available():
            raise NeedsHdf5(f"lzf needs the native library ({native.describe()})")
        if code == _BLOSC and _blosc() is None:
            raise NeedsHdf5("this build of hdf5plugin lends no Blosc decoder")
        found = Pipeline(name, decode, 1 << place)
    return found


def _inflate(data: Bytes, out: Bytes) -> None:
    stream = zlib.decompressobj()
    try:
        # One byte of room beyond the end makes it read on to the checksum.
        found = stream.decompress(data.data, out.size + 1)
    except zlib.error as error:
        raise Corrupt(f"a gzip chunk does not decode ({error})") from error
    if len(found) != out.size or not stream.eof:
        raise Corrupt(f"a gzip chunk gives {len(found)} bytes or more: expected {out.size}")
    out[:] = np.frombuffer(found, np.uint8)


def _decode_lzf(data: Bytes, out: Bytes) -> None:
    native.lzf_decompress_into(data.data, out)


def _decode_lz4(data: Bytes, out: Bytes) -> None:
    """Blocks behind a header: total size (8 bytes), block size (4), all sizes big-endian."""
    total = int.from_bytes(data[:8].tobytes(), "big")
    block = int.from_bytes(data[8:_LZ4_HEADER_BYTES].tobytes(), "big")
    if total != out.size or not block:
        raise Corrupt(f"an LZ4 chunk declares {total} bytes in blocks of {block}: not {out.size}")
    place = _LZ4_HEADER_BYTES
    for start in range(0, total, block):
        target = out[start : start + block]
        size = int.from_bytes(data[place : place + 4].tobytes(), "big")
        encoded = data[place + 4 : place + 4 + size]
        place += 4 + size
        if encoded.size != size:
            raise Corrupt(f"an LZ4 chunk ends early: {data.size} bytes, a block ends at {place}")
        if size == target.size:
            target[:] = encoded
            continue
        try:
            found = lz4.block.decompress(encoded, uncompressed_size=target.size)
        except lz4.block.LZ4BlockError as error:
            raise Corrupt(f"an LZ4 chunk does not decode ({error})") from error
        if len(found) != target.size:
            raise Corrupt(f"an LZ4 block gives {len(found)} bytes: expected {target.size}")
        target[:] = np.frombuffer(found, np.uint8)


def _decode_blosc(data: Bytes, out: Bytes) -> None:
    header = data[:_BLOSC_HEADER_BYTES].tobytes()
    decoded, stored = (int.from_bytes(header[at : at + 4], "little") for at in (4, 12))
    decoder = _blosc()
    if decoder is None or (decoded, stored) != (out.size, data.size):
        raise Corrupt(
            f"a Blosc chunk of {data.size} bytes declares {stored}, decoded {decoded}: expected "
            f"{out.size}"
        )
    found = decoder(data.ctypes.data, out.ctypes.data, out.size, 1)
    if found != out.size:
        raise Corrupt(f"a Blosc chunk does not decode (status {found}): expected {out.size} bytes")


@cache
def _blosc() -> Callable[[int, int, int, int], int] | None:
    """The decoder of the plugin that the HDF5 library itself loads; called without the GIL."""
    for path in sorted(Path(hdf5plugin.PLUGIN_PATH).glob("libh5blosc.*")):
        try:
            decoder = ctypes.CDLL(str(path)).blosc_decompress_ctx
        except (OSError, AttributeError):
            continue
        decoder.restype = ctypes.c_int
        decoder.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        return decoder
    return None


_DECODERS: dict[int, tuple[str, Callable[[Bytes, Bytes], None]]] = {
    h5py.h5z.FILTER_DEFLATE: ("gzip", _inflate),
    _LZF: ("lzf", _decode_lzf),
    _LZ4: ("lz4", _decode_lz4),
    _BLOSC: ("blosc", _decode_blosc),
}
