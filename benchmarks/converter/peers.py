"""LeRobot's writers as peers: which of their options are best here, and what they take."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watched import Run, run_watched

__all__ = ["LEROBOT", "SETTINGS", "Peer", "best_options", "write_with_lerobot"]

HERE = Path(__file__).parent
LEROBOT = HERE.parents[1] / ".venv-lerobot" / "bin" / "python"

SETTINGS = (
    "outputs.lerobot.codec=h264",
    "outputs.lerobot.preset=medium",
    "outputs.lerobot.crf=30",
    "outputs.lerobot.gop=2",
)
"""The converter at the settings that lerobot 0.4.4 encodes h264 with; it has no say in them."""

_IMAGE_WRITERS = (
    {"image_writer_processes": 0, "image_writer_threads": 0},
    # What its documentation advises: four threads a camera, or a process beside them.
    {"image_writer_processes": 0, "image_writer_threads": 12},
    {"image_writer_processes": 1, "image_writer_threads": 12},
)
_ENCODER_THREADS = (1, None)


@dataclass(frozen=True)
class Peer:
    """What one run took.

    Attributes:
        run: Its process and those below it.
        begun_cpu_s: What its imports took, which is not counted.
        images: Given to it.
        written: Of them in its videos.
    """

    run: Run
    begun_cpu_s: float
    images: int
    written: int

    @property
    def images_per_core_s(self) -> float:
        """Images in its videos by CPU seconds."""
        return self.written / (self.run.cpu_s - self.begun_cpu_s)

    @property
    def images_per_s(self) -> float:
        """Images in its videos by time that passed, imports with it."""
        return self.written / self.run.wall_s


def write_with_lerobot(bag: Path, folder: Path, options: dict[str, Any]) -> Peer:
    """Write ``bag`` as a dataset, which is removed again.

    Raises:
        RuntimeError: It failed.
    """
    root, report = folder / "lerobot", folder / "lerobot.json"
    shutil.rmtree(root, ignore_errors=True)
    command = [LEROBOT, HERE / "peer_lerobot.py", root, report, json.dumps(options)]
    run = run_watched(
        command,
        log=folder / "lerobot.log",
        fed_by=[sys.executable, HERE / "feed.py", bag],
        environment={"HF_HOME": str(folder / "hf"), "PYTHONPATH": ""},
    )
    shutil.rmtree(root, ignore_errors=True)
    if run.status != 0:
        raise RuntimeError(f"lerobot ended with {run.status}: {run.said}")
    return Peer(run, **json.loads(report.read_text()))


def best_options(bag: Path, folder: Path, *, streaming: bool) -> dict[str, Any]:
    """The options with which lerobot does most images by core and second."""
    base: dict[str, Any] = {"vcodec": "h264", "streaming_encoding": streaming}
    tried: list[tuple[float, dict[str, Any]]] = []

    def best(candidates: list[dict[str, Any]]) -> dict[str, Any]:
        for options in candidates:
            speed = write_with_lerobot(bag, folder, options).images_per_core_s
            tried.append((speed, options))
        return max(tried, key=lambda each: each[0])[1]

    encoders = [{"encoder_threads": threads} for threads in _ENCODER_THREADS]
    if streaming:
        return best([base | encoder for encoder in encoders])
    chosen = best([base | writer | encoders[0] for writer in _IMAGE_WRITERS])
    return best([chosen | encoder for encoder in encoders[1:]])
