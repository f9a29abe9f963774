"""A batch: arrays that are allocated once and filled in place, whoever fills them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import DatasetInfo
from penstock.errors import InvalidInput

__all__ = ["Batch", "FrameSpec"]

_MAX_SIDE = 4096


@dataclass(frozen=True)
class FrameSpec:
    """Size of the images in a batch, in pixels; zero for both leaves them as stored."""

    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if (self.height == 0) != (self.width == 0):
            raise InvalidInput(
                f"image size {self.height}x{self.width}: give both sides, or neither",
                field="frame_spec",
            )
        if not (0 <= self.height <= _MAX_SIDE and 0 <= self.width <= _MAX_SIDE):
            raise InvalidInput(
                f"image size {self.height}x{self.width}: sides go from 1 to {_MAX_SIDE}",
                field="frame_spec",
            )

    def resolve(self, info: DatasetInfo) -> tuple[int, int]:
        """Height and width that every camera of ``info`` gets.

        Raises:
            InvalidInput: No size is asked for and the cameras differ.
        """
        if self.height:
            return self.height, self.width
        sizes = {(camera.height, camera.width) for camera in info.cameras}
        if len(sizes) > 1:
            stored = ", ".join(f"{c.name} {c.height}x{c.width}" for c in info.cameras)
            raise InvalidInput(
                f"cameras differ in size ({stored}): ask for one image_size", field="frame_spec"
            )
        return sizes.pop() if sizes else (0, 0)


@dataclass
class Batch:
    """``B`` transitions; camera ``C``, joints ``J``, actions ``A``.

    A batch of windows holds the ``K`` transitions of each one after the other, so ``B`` is the
    number of windows times ``K``; :attr:`windowed` gives every array with an axis of its own for
    them.

    Attributes:
        transition_ids: ``(B,) int64``.
        frames: ``(B, 2, C, H, W, 3) uint8``: current and next observation of each camera.
        joint: ``(B, J) float32``.
        next_joint: ``(B, J) float32``.
        action: ``(B, A) float32``.
        reward: ``(B,) float32``.
        terminal: ``(B,) bool``; where true, the next observation repeats the current one.
        cameras: Names along the camera axis.
        step: The step of the plan it answers, or -1.
        window: Transitions of a window, K; 1 without windows.
        mask: ``(B,) bool``; false where a window has left its episode and repeats its last
            transition.
    """

    transition_ids: NDArray[np.int64]
    frames: NDArray[np.uint8]
    joint: NDArray[np.float32]
    next_joint: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminal: NDArray[np.bool_]
    cameras: tuple[str, ...]
    step: int = -1
    window: int = 1
    mask: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    def __post_init__(self) -> None:
        if len(self.mask) != len(self.transition_ids):
            self.mask = np.ones(len(self.transition_ids), np.bool_)

    @classmethod
    def allocate(
        cls,
        size: int,
        info: DatasetInfo,
        spec: FrameSpec,
        frames: Callable[[tuple[int, ...]], NDArray[np.uint8]] | None = None,
    ) -> Batch:
        """A batch of ``size`` transitions with unset contents.

        Args:
            size: Transitions.
            info: The dataset.
            spec: Size of the images.
            frames: Gives the memory of the frames for their shape, contiguous; None for new memory.
        """
        height, width = spec.resolve(info)
        shape = (size, 2, len(info.cameras), height, width, 3)
        return cls(
            transition_ids=np.empty(size, np.int64),
            frames=np.empty(shape, np.uint8) if frames is None else frames(shape),
            joint=np.empty((size, info.joint_dim), np.float32),
            next_joint=np.empty((size, info.joint_dim), np.float32),
            action=np.empty((size, info.action_dim), np.float32),
            reward=np.empty(size, np.float32),
            terminal=np.empty(size, np.bool_),
            cameras=info.camera_names,
        )

    def __len__(self) -> int:
        return len(self.transition_ids)

    @property
    def images(self) -> dict[str, NDArray[np.uint8]]:
        """Current image of each camera, views ``(B, H, W, 3) uint8``.

        Asking for a camera that is not there raises InvalidInput, which names those that are.
        """
        return _ByCamera((name, self.frames[:, 0, i]) for i, name in enumerate(self.cameras))

    @property
    def next_images(self) -> dict[str, NDArray[np.uint8]]:
        """Next image of each camera, as :attr:`images`."""
        return _ByCamera((name, self.frames[:, 1, i]) for i, name in enumerate(self.cameras))

    @property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Everything but the frames, by name, in the order that goes over the wire."""
        return {
            "joint": self.joint,
            "next_joint": self.next_joint,
            "action": self.action,
            "reward": self.reward,
            "terminal": self.terminal,
        }

    @property
    def windowed(self) -> dict[str, NDArray[np.generic]]:
        """Every array by name, views ``(B / K, K, ...)``: frames, columns, ids and mask."""
        arrays = {"frames": self.frames, **self.columns}
        arrays |= {"transition_ids": self.transition_ids, "mask": self.mask}
        return {
            name: values.reshape(-1, self.window, *values.shape[1:])
            for name, values in arrays.items()
        }

    def like(self, size: int) -> Batch:
        """A batch of ``size`` transitions of the same widths and images, with unset contents."""

        def empty(values: NDArray[Any]) -> NDArray[Any]:
            return np.empty((size, *values.shape[1:]), values.dtype)

        return Batch(
            empty(self.transition_ids),
            empty(self.frames),
            empty(self.joint),
            empty(self.next_joint),
            empty(self.action),
            empty(self.reward),
            empty(self.terminal),
            self.cameras,
            self.step,
        )

    def taken(self, rows: NDArray[np.bool_]) -> Batch:
        """A copy with those rows alone, ``rows (B,) bool``; windows must be kept whole."""
        return Batch(
            self.transition_ids[rows],
            self.frames[rows],
            self.joint[rows],
            self.next_joint[rows],
            self.action[rows],
            self.reward[rows],
            self.terminal[rows],
            self.cameras,
            self.step,
            self.window,
            self.mask[rows],
        )

    def rows(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` as views of the same memory; they need not be windows."""
        part = slice(start, stop)
        return Batch(
            self.transition_ids[part],
            self.frames[part],
            self.joint[part],
            self.next_joint[part],
            self.action[part],
            self.reward[part],
            self.terminal[part],
            self.cameras,
            self.step,
            mask=self.mask[part],
        )


class _ByCamera(dict[str, NDArray[np.uint8]]):
    def __missing__(self, name: str) -> NDArray[np.uint8]:
        known = ", ".join(self) or "none"
        raise InvalidInput(
            f"there is no camera {name!r} in this batch: its cameras are {known}", field="camera"
        )
