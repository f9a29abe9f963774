"""A trained policy: images and joints in, actions in the robot's units out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.errors import Corrupt, InvalidInput
from penstock_trainer.algorithm import ActingPolicy, NetworkSpec
from penstock_trainer.build import acting_policy, spec_from_state
from penstock_trainer.hardware import choose_device
from penstock_trainer.normalise import Normaliser

__all__ = ["Policy"]

STATE_KIND = "penstock.trainer"


class Policy:
    """Acts as the run had learned to when the checkpoint was made.

    For LAPO that is ``dec_target(s, actor(s))``, brought back to the robot's units and clipped to
    the range of recorded actions. Nothing is drawn: the same observation gives the same action.

    Attributes:
        step: Optimiser steps behind it.
        cameras: Names of the images it takes.
        image_size: Height and width of those images in pixels.
    """

    def __init__(
        self, network: ActingPolicy, spec: NetworkSpec, normaliser: Normaliser, step: int
    ) -> None:
        self._network, self._spec, self._normaliser = network, spec, normaliser
        self._device = normaliser.joint_mean.device
        self.step = step
        self.cameras = spec.encoder.cameras
        self.image_size = (spec.encoder.height, spec.encoder.width)

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Any], device: str = "cpu") -> Self:
        """Build the policy of a run's checkpoint.

        Args:
            state: What ``penstock.load_checkpoint`` or a checkpoint client gave.
            device: ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            Corrupt: The state is not that of a training run.
        """
        if state.get("kind") != STATE_KIND:
            raise Corrupt(
                f"not a checkpoint of a training run: kind is {state.get('kind')!r}, expected "
                f"{STATE_KIND!r}: load one that `penstock train` has saved"
            )
        target = choose_device(device)
        spec = spec_from_state(state["networks"])
        normaliser = Normaliser.from_state(state["normaliser"]).to(target)
        network = acting_policy(state["settings"]["algo"], spec, state["algorithm"], target)
        return cls(network, spec, normaliser, int(state["step"]))

    def select_action(
        self, images: Mapping[str, NDArray[np.uint8]], joint: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Choose actions.

        Args:
            images: ``(H, W, 3)`` or ``(B, H, W, 3) uint8`` by camera name, RGB, in the size the
                policy was trained on (:attr:`image_size`).
            joint: ``(J,)`` or ``(B, J)``.

        Returns:
            ``(A,)`` or ``(B, A) float32`` in the robot's units.

        Raises:
            InvalidInput: A camera is missing or unknown, or a shape or dtype does not fit.
        """
        joint = np.asarray(joint, np.float32)
        single = joint.ndim == 1
        joint = np.atleast_2d(joint)
        encoder = self._spec.encoder
        if joint.ndim != 2 or joint.shape[1] != encoder.joint_dim:  # noqa: PLR2004 - (B, J)
            raise InvalidInput(
                f"joint has shape {joint.shape}: expected (B, {encoder.joint_dim}) or "
                f"({encoder.joint_dim},)",
                field="joint",
            )
        frames = self._frames(images, len(joint), single=single)
        with torch.inference_mode():
            states = self._normaliser.joint(torch.tensor(joint, device=self._device))
            action = self._network.act(torch.as_tensor(frames).to(self._device), states)
            chosen = self._normaliser.robot_action(action).cpu().numpy()
        return chosen[0] if single else chosen

    def _frames(
        self, images: Mapping[str, NDArray[np.uint8]], batch: int, *, single: bool
    ) -> NDArray[np.uint8]:
        """Check the images and put them side by side: ``(B, C, H, W, 3)``."""
        if set(images) != set(self.cameras):
            raise InvalidInput(
                f"images are of the cameras {sorted(images)}: the policy takes "
                f"{sorted(self.cameras)}",
                field="images",
            )
        shape = (batch, *self.image_size, 3)
        frames = np.empty((batch, len(self.cameras), *self.image_size, 3), np.uint8)
        for index, name in enumerate(self.cameras):
            image = np.asarray(images[name])
            image = image[None] if single and image.ndim == 3 else image  # noqa: PLR2004 - (H, W, 3)
            if image.shape != shape or image.dtype != np.uint8:
                raise InvalidInput(
                    f"image {name!r} is {image.dtype} {image.shape}: expected uint8 {shape}; "
                    "resize as the sampler did (cv2.INTER_LINEAR)",
                    field=f"images.{name}",
                )
            frames[:, index] = image
        return frames
