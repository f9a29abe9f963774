"""The numbers of a serialised sensor_msgs/JointState, found by their places.

A robot names its joints in every message. Reading the names again takes most of the time that a
message takes, so they are compared as bytes and read only where they differ from those before.
"""

from __future__ import annotations

import struct
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
    """What a message holds besides its header; the arrays are float64, empty where not measured."""

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
        order = "<"
        if not self._ros1:
            if message[:2] not in (b"\x00\x00", b"\x00\x01"):
                return None
            order = "<" if message[1] else ">"
        length, number = _FORMS[order]
        try:
            (size,) = length.unpack_from(message, self._header)
            position = self._aligned(self._header + 4 + size, 4)
            position = self._find_names(message, position, length)
            arrays: list[NDArray[np.float64]] = []
            for _ in range(3):
                position = self._aligned(position, 4)
                (count,) = length.unpack_from(message, position)
                position += 4
                if count:
                    position = self._aligned(position, 8)
                arrays.append(np.frombuffer(message, number, count, position))
                position += 8 * count
        except (struct.error, ValueError):
            return None
        # CDR may be followed by what pads it.
        if not 0 <= len(message) - position < (1 if self._ros1 else 4):
            return None
        return JointState(self._names, *arrays)

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
