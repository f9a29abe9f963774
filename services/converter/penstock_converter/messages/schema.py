"""What every episode of a dataset has in common: shapes, types and names of its features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from penstock.errors import DataFault
from penstock_converter.frames.choice import is_image
from penstock_converter.mapping.model import IMAGE_DTYPES, Mapping
from penstock_converter.messages.numbers import default_dtype

__all__ = ["FeatureSchema", "Schema", "dtype_of"]


@dataclass(frozen=True)
class FeatureSchema:
    """One feature.

    Attributes:
        dtype: ``video``, ``image``, or the type of its numbers.
        shape: (H, W, 3) or (D,).
        labels: Names of the elements, where the messages tell them.
    """

    dtype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is a camera."""
        return self.dtype in IMAGE_DTYPES


@dataclass
class Schema:
    """Features learned so far; the first message of each settles it."""

    features: dict[str, FeatureSchema] = field(default_factory=dict)

    def fork(self) -> Self:
        """A copy for one episode, so that a bag that is refused settles nothing."""
        return type(self)(dict(self.features))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            name: {
                "dtype": feature.dtype,
                "shape": list(feature.shape),
                "labels": None if feature.labels is None else list(feature.labels),
            }
            for name, feature in self.features.items()
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """What ``to_json`` gave.

        Raises:
            KeyError, TypeError: It is something else.
        """
        features = {
            name: FeatureSchema(
                each["dtype"],
                tuple(each["shape"]),
                None if each["labels"] is None else tuple(each["labels"]),
            )
            for name, each in content.items()
        }
        return cls(features)

    def settle(self, name: str, found: FeatureSchema) -> None:
        """Learn or check a feature.

        Raises:
            DataFault: It differs from what came before.
        """
        known = self.features.setdefault(name, found)
        if known != found:
            differs = (
                f"{found.dtype} {found.shape}, but {known.dtype} {known.shape}"
                if (known.dtype, known.shape) != (found.dtype, found.shape)
                else f"of {found.labels}, but {known.labels}"
            )
            raise DataFault(
                f"{name} is {differs} before: one dataset needs one form of each feature, convert "
                "recordings of another robot or setting to a dataset of their own",
                reason="SCHEMA_MISMATCH",
                metadata={"feature": name},
            )


def dtype_of(name: str, mapping: Mapping, kind: str) -> str:
    """Type that feature ``name``, whose messages are ``kind``, has in the dataset.

    Raises:
        DataFault: The type that the mapping asks for does not fit the messages.
    """
    asked = mapping.features[name].dtype
    if is_image(kind):
        lerobot = mapping.outputs.lerobot
        fitting = IMAGE_DTYPES
        default = "video" if lerobot is None or lerobot.video else "image"
        if lerobot is not None and not lerobot.video and asked == "video":
            asked = "image"
    else:
        fitting = ("float32", "float64", "int64", "bool")
        default = default_dtype(kind)
    if asked is not None and asked not in fitting:
        raise DataFault(
            f"feature {name} has dtype {asked}, but its messages are {kind}: leave dtype out or "
            f"use {' or '.join(fitting)}",
            reason="DTYPE_MISMATCH",
        )
    return asked or default
