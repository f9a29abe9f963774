"""LeRobot 0.4.4's own writers on the frames that ``feed.py`` sends; runs in lerobot's environment.

In LeRobot's favour: another process reads the bag, and the time that its imports take is not
counted. As for the converter, JPEG files are decoded here, with OpenCV. Options, as JSON, are those
of ``LeRobotDataset.create``. Usage: python peer_lerobot.py ROOT REPORT.json OPTIONS
"""

from __future__ import annotations

import json
import logging
import os
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import av
import cv2
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

__all__: list[str] = []

_CAMERAS = tuple(f"observation.images.{name}" for name in ("left", "right", "global"))
_SHAPE = (480, 640, 3)
_JOINTS, _FPS = 14, 30


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _parts() -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Image files and vectors of each frame."""
    source = sys.stdin.buffer
    while True:
        parts: list[bytes] = []
        for _ in range(len(_CAMERAS) + 2):
            head = source.read(4)
            if not head:
                return
            parts.append(source.read(struct.unpack("<I", head)[0]))
        yield parts[: len(_CAMERAS)], parts[len(_CAMERAS) :]


def _decoded(file: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _written(dataset: LeRobotDataset) -> int:
    """Frames in the videos of the first episode."""
    found = 0
    for path in sorted(dataset.root.glob("videos/**/*.mp4")):
        with av.open(str(path)) as container:
            found += container.streams.video[0].frames
    return found


def main() -> None:
    """Write one episode and report."""
    cv2.setNumThreads(1)
    logging.basicConfig(level=logging.WARNING)
    root, report, options = sys.argv[1:]
    begun_cpu_s = _cpu_s()
    image = {"dtype": "video", "shape": _SHAPE, "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "shape": (_JOINTS,), "names": None}
    features = dict.fromkeys(_CAMERAS, image)
    features |= {"observation.state": vector, "action": vector}
    dataset = LeRobotDataset.create("local/bench", _FPS, features, root=root, **json.loads(options))
    frames = 0
    for files, vectors in _parts():
        images = {name: _decoded(file) for name, file in zip(_CAMERAS, files, strict=True)}
        state, action = (np.frombuffer(vector, np.float32) for vector in vectors)
        frame = {**images, "observation.state": state, "action": action, "task": "reach"}
        dataset.add_frame(frame)
        frames += 1
    dataset.save_episode()
    dataset.finalize()
    dataset.stop_image_writer()
    found = {
        "begun_cpu_s": begun_cpu_s,
        "images": frames * len(_CAMERAS),
        "written": _written(dataset),
    }
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
