"""Finding, loading and calling the native library."""

from __future__ import annotations

import ctypes
import logging
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt, LimitExceeded, Unsupported
from penstock.native.plane_kernels import PlaneKernels, address
from penstock.native.rollout_kernels import RolloutKernels

__all__ = [
    "LEVELS",
    "Kernels",
    "available",
    "describe",
    "kernels",
    "lzf_decompress_into",
    "say_fallback",
]

LEVELS = ("portable", "avx2", "avx512")
"""Sets of instructions, each including the ones before; all give equal bytes."""

_ABI = 8
_FILE = Path(__file__).with_name("kernels.so")
_SWITCH = "PENSTOCK_NATIVE"
_NO_MEMORY = -1

_log = logging.getLogger(__name__)


class Kernels(PlaneKernels, RolloutKernels):
    """The native library at one level of instructions.

    Calls hold no state and let other Python threads run. Arguments are not checked here but by the
    callers in ``penstock.codecs`` and ``penstock.resize``: arrays are uint8 and C-contiguous.

    Args:
        path: The shared library.
        level: One of ``LEVELS``, at most ``best_level(path)``; ``None`` means the best.

    Raises:
        OSError: The file is missing, or is no library for this machine.
        ValueError: It was built from other sources, or this CPU has no such level.
    """

    def __init__(self, path: Path = _FILE, level: str | None = None) -> None:
        library = ctypes.CDLL(str(path))
        if library.ps_abi() != _ABI:
            raise ValueError(f"{path} was built from other sources: install penstock again")
        best = library.ps_best_level()
        if level is not None and LEVELS.index(level) > best:
            raise ValueError(f"this CPU has {LEVELS[best]}, not {level}")
        self.level = LEVELS[best] if level is None else level
        self._level = LEVELS.index(self.level)
        size, pointer = ctypes.c_int64, ctypes.c_void_p
        self._encode_bitplanes = library.ps_encode_bitplanes
        self._encode_bitplanes.restype = size
        self._encode_bitplanes.argtypes = [ctypes.c_int, pointer, *3 * [size], pointer, pointer]
        self._decode_images = library.ps_decode_images
        self._decode_images.restype = size
        self._decode_images.argtypes = [*2 * [ctypes.c_int], *2 * [pointer], *3 * [size], pointer]
        self._read_frames = library.ps_read_frames
        self._read_frames.restype = size
        self._read_frames.argtypes = [
            *(ctypes.c_int, pointer, pointer, pointer, size),
            *(pointer, *3 * [size], pointer),
        ]
        self._record_sizes = library.ps_record_sizes
        self._record_sizes.restype = size
        self._record_sizes.argtypes = [*3 * [pointer], *4 * [size], *2 * [pointer]]
        self._read_records = library.ps_read_records
        self._read_records.restype = size
        self._read_records.argtypes = [
            *(pointer, pointer, pointer, *2 * [size], ctypes.POINTER(size)),
            *(*3 * [size], pointer, size),
        ]
        self._decode_observations = library.ps_decode_observations
        self._decode_observations.restype = size
        self._decode_observations.argtypes = [
            *(*2 * [ctypes.c_int], *2 * [pointer], size, *2 * [pointer]),
            *(*3 * [size], pointer, size),
        ]
        self._resize = library.ps_resize
        self._resize.restype = size
        self._resize.argtypes = [
            *(ctypes.c_int, pointer, *3 * [size]),
            *(pointer, *2 * [size]),
            *4 * [pointer],
        ]
        self._lzf_decompress = library.ps_lzf_decompress
        self._lzf_decompress.restype = size
        self._lzf_decompress.argtypes = [pointer, size, pointer, size]
        self._gather = library.ps_gather
        self._gather.restype = None
        self._gather.argtypes = [pointer, pointer, pointer, size, pointer]
        PlaneKernels.__init__(self, library, self._level)
        RolloutKernels.__init__(self, library, self._level)

    def encode_bitplanes(
        self, images: NDArray[np.uint8], out: NDArray[np.uint8], sizes: NDArray[np.uint32]
    ) -> int:
        """Encode ``(n, H, row_bytes)`` images into ``out``, which has room for the worst case.

        Returns:
            How many bytes of ``out`` were written; ``sizes`` has those of each image.
        """
        return self._encode_bitplanes(
            self._level, address(images), *images.shape, address(out), address(sizes)
        )

    def decode_images(
        self,
        codec: int,
        data: NDArray[np.uint8],
        sizes: NDArray[np.uint32],
        out: NDArray[np.uint8],
    ) -> int:
        """Decode ``(n, H, row_bytes)`` images; ``sizes`` add up to the size of ``data``.

        Args:
            codec: Index in ``penstock.codecs.IMAGE_CODECS``.
            data: ``(size,)`` uint8.
            sizes: ``(n,)`` uint32.
            out: Filled.

        Returns:
            ``n``, or the index of the first image that does not decode.

        Raises:
            LimitExceeded: No memory for one decoded image.
        """
        done = self._decode_images(
            self._level, codec, address(data), address(sizes), *out.shape, address(out)
        )
        if done == _NO_MEMORY:
            raise LimitExceeded(f"no memory to decode an image of {out.shape[1:]} bytes")
        return done

    def read_frames(
        self,
        hash_address: int,
        files: NDArray[np.int64],
        wanted: NDArray[np.int64],
        places: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> int:
        """Read observations of files of cached frames, check and decode them.

        Args:
            hash_address: See ``xxh3_address``.
            files: ``(F, 6)``: descriptor, index of the codec in ``penstock.codecs.IMAGE_CODECS``,
                number of observations, offsets of index and records, bytes of all records.
            wanted: ``(n, 4)``: file, row, the first of its places and how many it has; what is
                neighbours in a file is read at once where it follows one another here.
            places: ``(m,)``: which of the ``N`` observations of ``out``; in range.
            out: ``(N, C, H, row_bytes)``.

        Returns:
            ``n``, or the index of the first observation that cannot be read or is damaged.

        Raises:
            LimitExceeded: No memory for encoded images.
        """
        done = self._read_frames(
            self._level,
            hash_address,
            *(address(files), address(wanted), len(wanted), address(places)),
            *(*out.shape[1:], address(out)),
        )
        if done == _NO_MEMORY:
            raise LimitExceeded(f"no memory to decode images of {out.shape[2:]} bytes")
        return done

    def record_sizes(
        self,
        hash_address: int,
        files: NDArray[np.int64],
        wanted: NDArray[np.int64],
        shape: tuple[int, int, int],
        sizes: NDArray[np.uint32],
        spots: NDArray[np.uint64],
    ) -> int:
        """Read from their files' indexes how long the encoded images of observations are.

        Args:
            hash_address: See ``xxh3_address``; without it seeds are 0.
            files: As for :meth:`read_frames`.
            wanted: ``(n, 4)``, likewise; places are not looked at.
            shape: ``(C, H, row_bytes)`` of an observation.
            sizes: ``(n, C)``, filled.
            spots: ``(n, 3)``, filled: where each observation begins in its file, its hash, and the
                seed of that.

        Returns:
            ``n``, or the index of the first observation that is out of range or damaged.

        Raises:
            LimitExceeded: No memory for a piece of an index.
        """
        done = self._record_sizes(
            *(hash_address, address(files), address(wanted), len(wanted), *shape),
            *(address(sizes), address(spots)),
        )
        if done == _NO_MEMORY:
            raise LimitExceeded("no memory for a piece of an index of frames")
        return done

    def read_records(
        self,
        hash_address: int,
        files: NDArray[np.int64],
        wanted: NDArray[np.int64],
        shape: tuple[int, int, int],
        out: memoryview,
        *,
        count: int,
        advised: int,
    ) -> tuple[int, int]:
        """Read observations as they lie in their files, and check them.

        Args:
            hash_address: See ``xxh3_address``.
            files: As for :meth:`read_frames`.
            wanted: ``(n, 4)``, likewise; places are not looked at.
            shape: ``(C, H, row_bytes)`` of an observation.
            out: Memory of just the size of the first ``count`` of them, filled.
            count: How many to read; the others will be wanted next. Once one had to come from the
                disk, the system is told to read those meanwhile.
            advised: How many of ``wanted`` it has been told of; 0 while all were in memory.

        Returns:
            ``count``, or the index of the first observation that cannot be read or is damaged;
            and ``advised`` for the next call.

        Raises:
            LimitExceeded: No memory for a piece of an index.
        """
        told = ctypes.c_int64(advised)
        done = self._read_records(
            *(hash_address, address(files), address(wanted), count, len(wanted) - count),
            *(ctypes.byref(told), *shape),
            *(address(np.frombuffer(out, np.uint8)), len(out)),
        )
        if done == _NO_MEMORY:
            raise LimitExceeded("no memory for a piece of an index of frames")
        return done, told.value

    def decode_observations(
        self,
        codec: int,
        data: NDArray[np.uint8],
        sizes: NDArray[np.uint32],
        firsts: NDArray[np.int64],
        places: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> int:
        """Decode observations, each once, and put them where they are shown.

        Args:
            codec: Index in ``penstock.codecs.IMAGE_CODECS``.
            data: ``(size,)`` uint8: the encoded images, back to back.
            sizes: ``(n, C)``: of each image; they add up to the size of ``data``.
            firsts: ``(n + 1,)``: observation ``i`` goes to ``places[firsts[i] : firsts[i + 1]]``.
            places: Which of the ``N`` observations of ``out``; in range, none twice.
            out: ``(N, C, H, row_bytes)``.

        Returns:
            ``n``, or the index of the first observation that does not decode.

        Raises:
            LimitExceeded: No memory for one decoded image.
        """
        done = self._decode_observations(
            *(self._level, codec, address(data), address(sizes), len(sizes)),
            *(address(firsts), address(places), *out.shape[1:], address(out), len(out)),
        )
        if done == _NO_MEMORY:
            raise LimitExceeded(f"no memory to decode an image of {out.shape[2:]} bytes")
        return done

    def resize(
        self,
        images: NDArray[np.uint8],
        out: NDArray[np.uint8],
        row_taps: tuple[NDArray[np.int32], NDArray[np.int16]],
        column_taps: tuple[NDArray[np.int32], NDArray[np.int16]],
    ) -> None:
        """Resize ``(n, h, w, 3)`` to ``(n, H, W, 3)`` by the taps of rows and columns.

        Raises:
            LimitExceeded: No memory for one row.
        """
        taps = [address(array) for array in (*row_taps, *column_taps)]
        done = self._resize(
            self._level, address(images), *images.shape[:3], address(out), *out.shape[1:3], *taps
        )
        if done == _NO_MEMORY:
            raise LimitExceeded(f"no memory to resize to {out.shape[1]} x {out.shape[2]} pixels")

    def lzf_decompress(self, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
        """Decode LZF; returns how many bytes that gave, negative when it is damaged."""
        return self._lzf_decompress(address(data), data.size, address(out), out.size)

    def gather(
        self,
        addresses: NDArray[np.uint64],
        sizes: NDArray[np.uint64],
        offsets: NDArray[np.uint64],
        out: NDArray[np.uint8],
    ) -> None:
        """Copy pieces of memory into ``out``; see ``penstock.native.gather``."""
        pieces = [address(array) for array in (addresses, sizes, offsets)]
        self._gather(*pieces, len(addresses), address(out))


@lru_cache(maxsize=1)
def _find() -> Kernels | str:
    """The library, or why there is none."""
    wish = os.environ.get(_SWITCH, "")
    if wish == "0":
        return f"switched off by {_SWITCH}=0"
    if wish not in ("", "1", *LEVELS):
        return f"{_SWITCH}={wish} is not known: use 0, 1 or one of {', '.join(LEVELS)}"
    if not _FILE.exists():
        return "it was not built: install penstock again where there is a C compiler"
    try:
        return Kernels(_FILE, wish if wish in LEVELS else None)
    except (OSError, ValueError) as error:
        return str(error)


def kernels() -> Kernels | None:
    """The native library at the level to use, or ``None`` where it is absent."""
    found = _find()
    return found if isinstance(found, Kernels) else None


def available() -> bool:
    """Whether the native library is there and switched on."""
    return kernels() is not None


def describe() -> str:
    """``avx512``, ``avx2`` or ``portable``; or ``absent: `` and why."""
    found = _find()
    return found.level if isinstance(found, Kernels) else f"absent: {found}"


@lru_cache(maxsize=1)
def say_fallback() -> None:
    """Say once in a process that frames are handled without the native library."""
    _log.warning(
        "The native kernels are %s. Frames are resized and decoded by NumPy instead: "
        "the same bytes, tens of times slower.",
        describe(),
    )


def lzf_decompress_into(data: bytes | memoryview, out: NDArray[np.uint8]) -> None:
    """Decode the LZF filter of HDF5 into ``out``, without holding the interpreter lock.

    Args:
        data: One filtered chunk.
        out: ``(size,)`` uint8, C-contiguous; filled. After an error it may hold anything.

    Raises:
        Corrupt: ``data`` does not decode to exactly ``out.nbytes`` bytes.
        Unsupported: The native library is absent (ask ``available()`` before).
    """
    library = kernels()
    if library is None:
        raise Unsupported(f"LZF needs the native kernels, which are {describe()}")
    if out.dtype != np.uint8 or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous, writable and uint8")
    source = np.frombuffer(data, np.uint8)
    decoded = library.lzf_decompress(source, out)
    if decoded != out.size:
        held = "is damaged" if decoded < 0 else f"holds {decoded} bytes"
        raise Corrupt(f"lzf chunk of {source.size} bytes {held}, {out.size} were announced")
