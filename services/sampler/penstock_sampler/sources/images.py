"""Checks on an image dataset: rank, dtype, and whether channels come last or first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock_sampler.checks.findings import Findings
from penstock_sampler.options import ImageOrder
from penstock_sampler.sources.column import Column

__all__ = ["ImageColumn", "check_image"]

_RANK = 4
_CHANNELS = 3
_MAX_SIDE = 8192
_MAX_FRAMES_PER_CHUNK = 16


@dataclass(frozen=True)
class ImageColumn:
    """Images of one camera in one file.

    Attributes:
        camera: Name of the camera.
        dataset: Path in the file, ``(observations, height, width, 3) uint8`` for ``hwc``,
            ``(observations, 3, height, width) uint8`` for ``chw``.
        height: Pixels.
        width: Pixels.
        order: Whether channels come last or first.
    """

    camera: str
    dataset: str
    height: int
    width: int
    order: Literal["hwc", "chw"]

    @property
    def frame_bytes(self) -> int:
        """Size of one stored frame."""
        return self.height * self.width * _CHANNELS


def check_image(
    column: Column, camera: str, wanted: ImageOrder, findings: Findings
) -> ImageColumn | None:
    """Recognise an image dataset; None with a fault when it is none."""
    path, check = column.path, f"{camera} camera"
    if len(column.shape) != _RANK:
        findings.fail(
            check,
            f"{path} has shape {column.shape}: expected (rows, height, width, 3) or "
            "(rows, 3, height, width)",
            remedy="write colour images, one a row",
            reason="WRONG_RANK",
            dataset=path,
        )
        return None
    if column.dtype != "uint8":
        findings.fail(
            check,
            f"{path} has dtype {column.dtype}: expected uint8",
            remedy="scale the images to 0..255 and write them as uint8",
            reason="WRONG_DTYPE",
            dataset=path,
        )
        return None
    order = _order(column, check, wanted, findings)
    if order is None:
        return None
    height, width = column.shape[1:3] if order == "hwc" else column.shape[2:4]
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        findings.fail(
            check,
            f"{path} has images of {height}x{width}: sides go from 1 to {_MAX_SIDE}",
            remedy="resize them before they are written",
            reason="TOO_LARGE",
            dataset=path,
        )
        return None
    findings.ok(check, f"{path} {column.described} {order.upper()}", dataset=path)
    if column.chunks and column.chunks[0] > _MAX_FRAMES_PER_CHUNK:
        findings.warn(
            check,
            f"{path} keeps {column.chunks[0]} frames in a chunk: each read decodes them all",
            remedy=f"rewrite it with one frame a chunk: h5repack -l {path}:CHUNK="
            + "x".join(str(extent) for extent in (1, *column.shape[1:])),
            reason="LARGE_CHUNKS",
            dataset=path,
        )
    return ImageColumn(camera, path, int(height), int(width), order)


def _order(
    column: Column, check: str, wanted: ImageOrder, findings: Findings
) -> Literal["hwc", "chw"] | None:
    path = column.path
    last, first = column.shape[3] == _CHANNELS, column.shape[1] == _CHANNELS
    if last and first and wanted == "auto":
        findings.fail(
            check,
            f"{path} has shape {column.shape}: both HWC and CHW fit",
            remedy="say which it is in the setting image_order (--image-order or "
            "PENSTOCK_IMAGE_ORDER, hwc or chw)",
            reason="AMBIGUOUS_IMAGE_ORDER",
            dataset=path,
        )
        return None
    if last and wanted in ("auto", "hwc"):
        return "hwc"
    if first and wanted in ("auto", "chw"):
        return "chw"
    axes = {"auto": "last (HWC) or first (CHW)", "hwc": "last (HWC)", "chw": "first (CHW)"}
    findings.fail(
        check,
        f"{path} has shape {column.shape}: expected 3 channels {axes[wanted]}",
        remedy="write RGB images"
        if wanted == "auto"
        else f"write RGB images, or leave the setting image_order={wanted} out",
        reason="WRONG_SHAPE",
        dataset=path,
    )
    return None
