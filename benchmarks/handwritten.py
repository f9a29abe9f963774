"""The buffer that a user writes by hand: h5py, one ``cv2.resize`` an image, arrays made once."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from recordings import CAMERAS

__all__ = ["HandWrittenBuffer"]


class HandWrittenBuffer:
    """Samples in this process from files that stay open.

    Args:
        paths: Recordings, each with one observation more than it has rows.
        batch_size: Transitions of a batch.
        side: Height and width that images are resized to, in pixels.

    Attributes:
        frames: ``(B, 2, C, side, side, 3) uint8``, overwritten by every batch.
    """

    def __init__(self, paths: list[Path], batch_size: int, side: int) -> None:
        cv2.setNumThreads(1)
        self._side = side
        self._files = [h5py.File(path) for path in paths]
        self._images = [[file[f"observations/{name}"] for name in CAMERAS] for file in self._files]
        self._joint = [file["observations/joint"][:] for file in self._files]
        self._action = [file["actions"][:] for file in self._files]
        self._reward = [file["rewards"][:] for file in self._files]
        self._terminal = [file["terminals"][:] for file in self._files]
        self._ends = np.cumsum([len(reward) for reward in self._reward])
        dim = self._joint[0].shape[1]
        self.frames = np.empty((batch_size, 2, len(CAMERAS), side, side, 3), np.uint8)
        self.joint = np.empty((batch_size, 2, dim), np.float32)
        self.action = np.empty((batch_size, self._action[0].shape[1]), np.float32)
        self.reward = np.empty(batch_size, np.float32)
        self.terminal = np.empty(batch_size, np.bool_)

    def fill(self, transition_ids: NDArray[np.int64]) -> None:
        """Read transitions, numbered through all files, into the arrays."""
        size = (self._side, self._side)
        for place, transition in enumerate(transition_ids.tolist()):
            file = int(np.searchsorted(self._ends, transition, side="right"))
            row = transition - (int(self._ends[file - 1]) if file else 0)
            terminal = bool(self._terminal[file][row])
            for slot, observation in enumerate((row, row if terminal else row + 1)):
                self.joint[place, slot] = self._joint[file][observation]
                for camera, images in enumerate(self._images[file]):
                    cv2.resize(images[observation], size, dst=self.frames[place, slot, camera])
            self.action[place] = self._action[file][row]
            self.reward[place] = self._reward[file][row]
            self.terminal[place] = terminal

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
