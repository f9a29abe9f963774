"""What a run leaves to read: progress.csv, params.json, TensorBoard."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import structlog
import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from penstock.disk import full_disk_named

__all__ = ["Averages", "Progress", "ResultFiles", "write_params"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """One report of a run.

    Attributes:
        step: Optimiser steps done.
        max_steps: Optimiser steps the run will do.
        metrics: Latest value of each quantity, by its column in ``progress.csv``.
        best_step: Step of the best model so far, 0 before the first.
    """

    step: int
    max_steps: int
    metrics: dict[str, float]
    best_step: int = 0


@dataclass
class Averages:
    """Means over the steps since the last report; they stay on the device until then."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count one step in."""
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def take(self) -> dict[str, float]:
        """The means, and begin anew."""
        if not self.count:
            return {}
        names = list(self.sums)
        # one transfer from the device for all of them
        means = (torch.stack([self.sums[name] for name in names]) / self.count).tolist()
        self.sums, self.count = {}, 0
        return dict(zip(names, means, strict=True))


class ResultFiles:
    """The files of one run, written as it goes on.

    A run that is resumed goes on in the same files: rows after the step it resumes from are of a
    past that did not count, and are dropped.

    Args:
        folder: Made if it is not there.
        columns: Metrics, after ``step`` and ``seconds``.
        from_step: Step that the run resumes from; 0 begins new files.

    Raises:
        LimitExceeded: The disk is full; the same holds for writing and closing.
    """

    def __init__(self, folder: Path, columns: Sequence[str], from_step: int) -> None:
        self._folder, self._columns = folder, ["step", "seconds", *columns]
        path = folder / "progress.csv"
        with self._full_disk_named():
            folder.mkdir(parents=True, exist_ok=True)
            kept = _rows_up_to(path, from_step) if from_step else []
            part = path.with_name("progress.csv.part")
            with part.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns, extrasaction="ignore", restval="")
                writer.writeheader()
                writer.writerows(kept)
            part.replace(path)
            self._file = path.open("a", newline="")
            self._writer = csv.DictWriter(self._file, self._columns, restval="")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Add one row; what is not measured at this step stays empty."""
        texts = {name: f"{value:.6g}" for name, value in metrics.items()}
        with self._full_disk_named():
            self._writer.writerow({"step": step, "seconds": f"{seconds:.2f}", **texts})
            self._file.flush()
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        with self._full_disk_named():
            self._file.close()
            self._board.close()

    def _full_disk_named(self) -> AbstractContextManager[None]:
        return full_disk_named(f"writing results to {self._folder}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_params(path: Path, params: Mapping[str, Any]) -> None:
    """Write what fixes a run, and the versions of what runs it, as JSON.

    Raises:
        LimitExceeded: The disk is full.
    """
    versions = {name: version(name) for name in ("penstock", "torch", "numpy")}
    versions["python"] = platform.python_version()
    part = path.with_name(f"{path.name}.part")
    with full_disk_named(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w") as file:
            json.dump({**params, "versions": versions}, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def _rows_up_to(path: Path, step: int) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row.get("step", "").isdigit() and int(row["step"]) <= step]
    if len(kept) < len(rows):
        log.info("progress_rows_dropped", rows=len(rows) - len(kept), after_step=step)
    return kept
