"""Encoded observations: what a replica reads, sends and caches, before anyone decodes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.codecs import decode_into_places
from penstock.errors import Corrupt, InvalidInput

__all__ = ["Observations", "Unread", "decode_observations"]


class Unread(Protocol):
    """Encoded images that lie somewhere else until they are wanted."""

    @property
    def from_disk(self) -> bool:
        """Whether some had to come from a disk: reading the next ones may take long."""
        ...

    def __len__(self) -> int:
        """Their size in bytes."""
        ...

    @property
    def hashes(self) -> NDArray[np.uint64] | None:
        """Hash of each observation's images and its seed, ``(N, 2)``; None if it cannot be sent."""
        ...

    def read_into(self, begin: int, into: memoryview) -> None:
        """Read whole images from byte ``begin`` on, as many as ``into`` has room for."""
        ...

    def send(self, begin: int, end: int, to: int) -> None:
        """Send bytes of observations to a socket without looking at them; ``hashes`` tell them.

        Raises:
            OSError: The socket fails.
            Corrupt: Not all of it is there; some may have been sent.
        """
        ...


@dataclass(frozen=True)
class Observations:
    """The images of ``N`` distinct observations and the ``n`` rows of a batch that show them.

    Attributes:
        codec: Of every image.
        height: Pixels of every image.
        width: Pixels of every image.
        image_bytes: ``(N, C) uint32``: encoded size of each camera's image.
        data: The encoded images, back to back, ``[observation][camera]``.
        current: ``(n,) int64``: the current observation of each row, from 0 to ``N - 1``.
        following: ``(n,) int64``: the next observation of each row; the same one where the
            transition is terminal.
    """

    codec: str
    height: int
    width: int
    image_bytes: NDArray[np.uint32]
    data: bytes | memoryview | Unread
    current: NDArray[np.int64]
    following: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image_bytes)

    @property
    def raw_bytes(self) -> int:
        """Size of all images after decoding."""
        return int(self.image_bytes.size) * self.height * self.width * 3

    @property
    def from_disk(self) -> bool:
        """Whether reading may take long; see :class:`Unread`."""
        return not isinstance(self.data, (bytes, memoryview)) and self.data.from_disk

    def read_into(self, begin: int, into: memoryview) -> None:
        """Put whole images from byte ``begin`` of the data on into memory of just their size."""
        if isinstance(self.data, (bytes, memoryview)):
            into[:] = self.data[begin : begin + len(into)]
        else:
            self.data.read_into(begin, into)

    @property
    def hashes(self) -> NDArray[np.uint64] | None:
        """Hash and seed of each observation, ``(N, 2)``; None where it has to be read first."""
        return None if isinstance(self.data, (bytes, memoryview)) else self.data.hashes

    def send(self, begin: int, end: int, to: int) -> None:
        """Send images from byte ``begin`` to ``end`` to a socket; see :class:`Unread`.

        Raises:
            InvalidInput: They have no ``hashes``.
        """
        if isinstance(self.data, (bytes, memoryview)):
            raise InvalidInput("frames without hashes are sent in a message", field="data")
        self.data.send(begin, end, to)

    def read(self) -> memoryview:
        """All of the data."""
        if isinstance(self.data, (bytes, memoryview)):
            return memoryview(self.data)
        data = memoryview(bytearray(len(self.data)))
        self.data.read_into(0, data)
        return data

    def check(self) -> None:
        """Hold what came from a wire to its own word.

        Raises:
            Corrupt: Sizes do not add up, or a row shows an observation that is not there.
        """
        announced = int(self.image_bytes.sum(dtype=np.int64))
        if announced != len(self.data):
            raise Corrupt(f"images of {announced} bytes are announced, {len(self.data)} are there")
        for name, rows in (("current", self.current), ("next", self.following)):
            outside = rows[(rows < 0) | (rows >= len(self))]
            if len(outside):
                raise Corrupt(
                    f"{name} observation {int(outside[0])} is shown, there are {len(self)}"
                )


def decode_observations(
    observations: Observations, out: NDArray[np.uint8], rows: NDArray[np.int64] | None = None
) -> None:
    """Decode every observation once, straight into its first place, and copy it to the others.

    Args:
        observations: Of ``n`` rows, as :meth:`Observations.check` passed them.
        out: ``(B, 2, C, H, W, 3)``, contiguous.
        rows: ``(n,)``: where each row goes in ``out``, no two to the same; None for one after the
            other from the first on.

    Raises:
        Corrupt: An image does not decode.
        InvalidInput: ``out`` is not contiguous.
    """
    if not out.size or not len(observations):
        return
    if not out.flags.c_contiguous:
        raise InvalidInput("out must be C-contiguous", field="out")
    # Place 2 * row is a row's current observation, 2 * row + 1 its next one.
    shown = np.stack([observations.current, observations.following], axis=1).reshape(-1)
    place = np.arange(len(shown))
    if rows is not None:
        place = np.stack([2 * rows, 2 * rows + 1], axis=1).reshape(-1)
    order = np.argsort(shown, kind="stable")
    firsts = np.zeros(len(observations) + 1, np.int64)
    np.cumsum(np.bincount(shown, minlength=len(observations)), out=firsts[1:])
    decode_into_places(
        observations.codec,
        observations.read(),
        observations.image_bytes,
        firsts,
        place[order],
        out.reshape(-1, *out.shape[2:]),
    )
