"""Which cameras a dataset has, under which names, and how ambiguous images are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from penstock.errors import InvalidInput

__all__ = ["CameraNames", "DataOptions", "ImageOrder", "parse_cameras", "parse_weight_columns"]

ImageOrder = Literal["auto", "hwc", "chw"]

_KNOWN = {
    "left": ("left_image", "left_wrist_image"),
    "right": ("right_image", "right_wrist_image"),
    "global": ("global_image",),
}
DEFAULT_CAMERAS = "left,right,global"


@dataclass(frozen=True)
class CameraNames:
    """A camera and the dataset names it may have in a file, the preferred one first."""

    name: str
    datasets: tuple[str, ...]


def parse_cameras(text: str) -> tuple[CameraNames, ...]:
    """Read a list of cameras such as ``left,right,wrist=wrist_rgb|wrist_image``.

    ``left``, ``right`` and ``global`` stand for their usual dataset names; any other name alone
    stands for ``<name>_image`` or ``<name>``. ``none`` or nothing means no cameras.

    Raises:
        InvalidInput: A name is empty or comes twice.
    """
    if text.strip() in ("", "none"):
        return ()
    cameras: list[CameraNames] = []
    for part in text.split(","):
        name, separator, accepted = (piece.strip() for piece in part.partition("="))
        if separator:
            datasets = tuple(piece.strip() for piece in accepted.split("|"))
        else:
            datasets = _KNOWN.get(name, (f"{name}_image", name))
        if not name or not all(datasets):
            raise InvalidInput(
                f"cameras {text!r}: {part!r} names no camera: write for example "
                "left,right,wrist=wrist_rgb",
                field="cameras",
            )
        if any(camera.name == name for camera in cameras):
            raise InvalidInput(f"cameras {text!r}: {name!r} comes twice", field="cameras")
        cameras.append(CameraNames(name, datasets))
    return tuple(cameras)


def parse_weight_columns(text: str) -> tuple[str, ...]:
    """Read a list of columns such as ``priority,advantage``.

    Raises:
        InvalidInput: A name is empty or comes twice.
    """
    if not text.strip():
        return ()
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if not name or names.count(name) > 1:
            raise InvalidInput(
                f"weight_columns {text!r}: {name!r} is empty or comes twice: write for example "
                "priority,advantage",
                field="weight_columns",
            )
    return names


@dataclass(frozen=True)
class DataOptions:
    """How files are read.

    Attributes:
        cameras: In the order of the camera axis of a batch.
        image_order: Layout of images whose shape fits both (``3 x 3`` pixels or ``(3, W, 3)``);
            ``auto`` refuses them. ``hwc`` and ``chw`` also insist on that layout elsewhere.
        weight_columns: Datasets at the root with a weight for each row, which every file has.

    Raises:
        InvalidInput: ``image_order`` is unknown.
    """

    cameras: tuple[CameraNames, ...] = parse_cameras(DEFAULT_CAMERAS)
    image_order: ImageOrder = "auto"
    weight_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.image_order not in get_args(ImageOrder):
            raise InvalidInput(
                f"image_order {self.image_order!r}: use one of {get_args(ImageOrder)}",
                field="image_order",
            )
