"""The numbers of a serialised sensor_msgs/JointState, found by their places.

A robot names its joints in every message. Reading the names again takes most of the time that a
message takes, so they are compared as bytes and read only where they differ from those before.
Messages that differ in nothing but stamps and numbers are read all at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["JOINT_STATE", "JointState", "JointStateReader"]

JOINT_STATE = "sensor_msgs/msg/JointState"
_ENCAPSULATION_BYTES = 4
_FORMS = {order: (struct.Struct(f"{order}I"), np.dtype(f"{order}f8")) for order in ("<", ">")}
"""Of lengths and numbers, by the order of bytes."""

_ROS1_FRAME_ID, _CDR_FRAME_ID = 12, 8
"""Bytes of the header before its frame: number and stamp, or stamp."""


class JointState(NamedTuple):
    """What a message holds besides its header; the arrays are float64, empty where not measured.

    Of several messages, with the same names, each array has a row for each message.
    """

    name: list[str]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    effort: NDArray[np.float64]


class JointStateReader:
    """Reads messages of one topic.

    Args:
        ros1: Whether they are of ROS 1; of ROS 2, plain CDR is read.
    """

    def __init__(self, *, ros1: bool) -> None:
        self._base = 0 if ros1 else _ENCAPSULATION_BYTES
        self._header = _ROS1_FRAME_ID if ros1 else _ENCAPSULATION_BYTES + _CDR_FRAME_ID
        self._ros1 = ros1
        self._names: list[str] = []
        self._names_at, self._names_bytes = -1, b""

    def read(self, message: bytes) -> JointState | None:
        """The numbers of a message.

        Returns:
            None where the lengths do not lead to the end of the message: for a reader that says
            why.
        """
        found = self._find_numbers(message)
        if found is None:
            return None
        number, places = found
        arrays = (np.frombuffer(message, number, count, at) for at, count in places)
        return JointState(self._names, *arrays)

    def read_alike(self, messages: Sequence[bytes]) -> JointState | None:
        """The numbers of several messages.

        Returns:
            None where ``read`` gives that for the first one, or where one differs from it in more
            than stamp and numbers: for a reader of one message at a time.
        """
        first = messages[0]
        found = self._find_numbers(first)
        if found is None or any(len(message) != len(first) for message in messages):
            return None
        number, places = found
        together = np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), len(first))
        fixed = np.ones(len(first), np.bool_)
        fixed[self._base : self._header] = False
        for at, count in places:
            fixed[at : at + 8 * count] = False
        fixed_bytes = together[:, fixed]
        if not (fixed_bytes == fixed_bytes[0]).all():
            return None
        arrays = (
            np.ascontiguousarray(together[:, at : at + 8 * count]).view(number)
            for at, count in places
        )
        return JointState(self._names, *arrays)

    def _find_numbers(
        self, message: bytes
    ) -> tuple[np.dtype[np.float64], list[tuple[int, int]]] | None:
        """Their type, and where each array begins and how many it holds."""
        order = "<"
        if not self._ros1:
            if message[:2] not in (b"\x00\x00", b"\x00\x01"):
                return None
            order = "<" if message[1] else ">"
        length, number = _FORMS[order]
        places: list[tuple[int, int]] = []
        try:
            (size,) = length.unpack_from(message, self._header)
            position = self._aligned(self._header + 4 + size, 4)
            position = self._find_names(message, position, length)
            for _ in range(3):
                position = self._aligned(position, 4)
                (count,) = length.unpack_from(message, position)
                position += 4
                if count:
                    position = self._aligned(position, 8)
                places.append((position, count))
                position += 8 * count
        except (struct.error, ValueError):
            return None
        # CDR may be followed by what pads it.
        if not 0 <= len(message) - position < (1 if self._ros1 else 4):
            return None
        return number, places

    def _aligned(self, position: int, size: int) -> int:
        return position if self._ros1 else position + (self._base - position) % size

    def _find_names(self, message: bytes, begin: int, length: struct.Struct) -> int:
        """Learn the names that begin there; returns where they end."""
        known = self._names_bytes
        if begin == self._names_at and message.startswith(known, begin):
            return begin + len(known)
        (count,) = length.unpack_from(message, begin)
        if 4 * count > len(message):
            raise ValueError("more names than there are bytes")
        position = begin + 4
        names: list[str] = []
        for _ in range(count):
            position = self._aligned(position, 4)
            (size,) = length.unpack_from(message, position)
            position += 4 + size
            if position > len(message):
                raise ValueError("a name is cut off")
            names.append(message[position - size : position].rstrip(b"\0").decode())
        self._names, self._names_at = names, begin
        self._names_bytes = message[begin:position]
        return position
