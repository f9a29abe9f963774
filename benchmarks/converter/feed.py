"""Reads a bag as the converter does and writes its frames to standard output, for who cannot.

A frame is one JPEG file of each camera, as it was recorded, the last joints and the last command
before the last of them; each part with its length before it. Usage: python feed.py BAG
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from rosbags.rosbag1 import Reader
from rosbags.typesys import Stores, get_typestore

__all__: list[str] = []

_CAMERAS = ("/cam_left/compressed", "/cam_right/compressed", "/cam_global/compressed")
_VECTORS = ("/joint_states", "/joint_commands")


def main() -> None:
    """Write all frames."""
    store = get_typestore(Stores.ROS1_NOETIC)
    out = sys.stdout.buffer
    latest: dict[str, bytes] = {}
    with Reader(Path(sys.argv[1])) as reader:
        for connection, _, data in reader.messages():
            message = store.deserialize_ros1(data, connection.msgtype)
            if connection.topic in _VECTORS:
                latest[connection.topic] = message.position.astype(np.float32).tobytes()
                continue
            latest[connection.topic] = message.data.tobytes()
            if connection.topic == _CAMERAS[-1]:
                for topic in (*_CAMERAS, *_VECTORS):
                    out.write(struct.pack("<I", len(latest[topic])) + latest[topic])
    out.flush()


if __name__ == "__main__":
    main()
