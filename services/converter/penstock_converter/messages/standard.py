"""Whether a recording defines a type as ROS does: then its bytes can be read by their places."""

from __future__ import annotations

import functools

from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from penstock_converter.messages.compressed import COMPRESSED_IMAGE
from penstock_converter.messages.joint_state import JOINT_STATE

__all__ = ["is_standard"]

_STAMP = "builtin_interfaces/Time stamp\nstring frame_id"
_HEADERS = (f"uint32 seq\n{_STAMP}", _STAMP)
"""Of ROS 1, and of ROS 2."""

_BODIES = {
    COMPRESSED_IMAGE: "std_msgs/Header header\nstring format\nuint8[] data",
    JOINT_STATE: "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n"
    "float64[] effort",
}


def is_standard(msgtype: str, store: Typestore) -> bool:
    """Whether messages are laid out as ROS 1 or ROS 2 lays them out; no other types are known."""
    if msgtype not in _BODIES:
        return False
    return any(
        all(store.fielddefs.get(kind) == fields for kind, fields in known.items())
        for known in _definitions(msgtype)
    )


@functools.cache
def _definitions(msgtype: str) -> list[Typesdict]:
    body = get_types_from_msg(_BODIES[msgtype], msgtype)
    return [{**body, **get_types_from_msg(head, "std_msgs/msg/Header")} for head in _HEADERS]
