"""The mapping: which topic, and which part of its messages, becomes which feature."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from penstock_converter.mapping.fieldpath import FieldPath

__all__ = [
    "IMAGE_DTYPES",
    "Clock",
    "Feature",
    "Hdf5Output",
    "LeRobotOutput",
    "Mapping",
    "Outputs",
    "Part",
    "Rosbag",
]

# Columns that every LeRobot dataset has by itself.
_RESERVED = frozenset({"timestamp", "frame_index", "episode_index", "index", "task_index", "task"})

Clock = Literal["receive", "header"]
Dtype = Literal["video", "image", "depth", "float32", "float64", "int64", "bool"]
IMAGE_DTYPES = ("video", "image", "depth")


def _check_chunk_size(value: Any) -> int | Literal["auto"] | None:
    if value is None or value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("expected a whole number of frames, from 1, or auto, or null for all of them")


ChunkSize = Annotated[int | Literal["auto"] | None, PlainValidator(_check_chunk_size)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rosbag(_Model):
    """How bags are read and frames are chosen."""

    chunk_size: ChunkSize = Field(
        default="auto",
        description="Frames in flight at most; auto: as many as memory allows, null: all of an "
        "episode. The output is the same for any value.",
    )
    time: Clock = Field(
        default="receive", description="Clock of the messages: bag stamps or headers."
    )
    main: str | None = Field(
        default=None, description="Feature whose messages are the frames; default: the first image."
    )
    stride: int = Field(default=1, ge=1, description="Keep every n-th message of the main feature.")
    drop_first: int = Field(
        default=0, ge=0, description="Messages of the main feature cut at the start."
    )
    drop_last: int = Field(
        default=0, ge=0, description="Messages of the main feature cut at the end."
    )
    gap: Literal["fail", "drop", "hold", "split"] = Field(
        default="fail",
        description="What a frame inside an episode without all its messages does: refuse the "
        "recording, go, take what the frame before has, or go and end the episode there.",
    )
    broken: Literal["fail", "hold"] = Field(
        default="fail",
        description="What an image that does not decode does: refuse the recording, or take the "
        "image before of that camera (counted).",
    )
    pause_s: float | None = Field(
        default=None,
        gt=0,
        description="A pause of the main feature that is a gap; default: 5 frames, 0.5 s at least.",
    )
    split_episodes: int | None = Field(
        default=None, ge=1, description="Frames of an episode at most; longer ones are split."
    )
    salvage: bool = Field(
        default=False, description="Take what is left of recordings that were cut off or damaged."
    )
    definitions: dict[str, str] = Field(
        default_factory=dict,
        description="Definitions of message types that recordings lack, by pkg/msg/Name, as text.",
    )


class _Pick(_Model):
    """How messages of a topic become numbers or images; see ``Part`` and ``Feature``."""

    field: str | None = None
    names: tuple[str, ...] | None = Field(default=None, min_length=1)
    align: Literal["nearest", "hold", "interpolate"] = "nearest"
    tolerance_s: float | None = Field(default=None, ge=0, le=1e6)
    offset_s: float = Field(default=0.0, ge=-1e6, le=1e6)
    time: Clock | None = None
    scale: float = Field(default=1.0, allow_inf_nan=False)
    labels: tuple[str, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check_pick(self) -> Self:
        if self.field is not None:
            FieldPath.parse(self.field)
        for key, given in (("names", self.names), ("labels", self.labels)):
            if given is not None and len(set(given)) != len(given):
                raise ValueError(f"{key} {list(given)} repeat one")
        return self


class Part(_Pick):
    """What is taken from one topic.

    Attributes:
        topic: Name of the topic.
        field: Path into the message, e.g. ``position``, ``pose.x``, ``joint_q[12:19]``; default:
            ``position`` of a JointState, else ``data``. Unused for images.
        names: Joints by name, in this order (JointState only).
        align: Which message a frame gets: the nearest, the last one before it (``hold``), or a
            linear interpolation between two.
        tolerance_s: How far a message may be from the moment it stands for; default: half a frame
            (nearest), a frame (interpolate), any age (hold).
        offset_s: The moment is the frame's time plus this.
        time: Clock of this topic, where it differs from ``rosbag.time``.
        scale: Numbers are multiplied by it, e.g. 0.017453292519943295 for degrees to radians.
        labels: Names of the elements in the dataset; default: those of the joints, if known.
    """

    topic: str = Field(min_length=1)


class Feature(_Pick):
    """Where one feature comes from: one topic, or parts of several, one after the other.

    Attributes:
        topic: Name of the topic; the keys of ``Part`` go with it.
        parts: Vectors that are joined, in the place of ``topic`` and its keys.
        dtype: Type in the dataset; default: video or image for images, bool for Bool, float32 for
            other numbers. ``depth`` keeps distances as whole millimetres.
    """

    topic: str | None = Field(default=None, min_length=1)
    parts: tuple[Part, ...] | None = Field(default=None, min_length=1)
    dtype: Dtype | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.topic is None) == (self.parts is None):
            raise ValueError("a feature has a topic, or parts with a topic each")
        aligned = [part.align for part in self.parts or ()] or [self.align]
        if "interpolate" in aligned and self.dtype not in (None, "float32", "float64"):
            raise ValueError(f"align: interpolate does not fit dtype {self.dtype}")
        if self.parts is not None:
            beside = (self.model_fields_set & set(_Pick.model_fields)) - {"labels"}
            if beside:
                raise ValueError(f"{', '.join(sorted(beside))}: belongs to the parts, one by one")
            if self.dtype in IMAGE_DTYPES:
                raise ValueError(f"dtype {self.dtype} does not fit parts: an image has one topic")
            labels = [label for part in self.parts for label in part.labels or ()]
            if len(set(labels)) != len(labels):
                raise ValueError(f"labels of the parts, {', '.join(labels)}, repeat one")
        return self

    @property
    def sources(self) -> tuple[Part, ...]:
        """The parts, or the one topic as a part."""
        if self.parts is not None:
            return self.parts
        values = {name: getattr(self, name) for name in Part.model_fields}
        return (Part.model_construct(_fields_set=None, **values),)


class LeRobotOutput(_Model):
    """How the LeRobot dataset is written."""

    video: bool = Field(
        default=True, description="Images as videos; false: JPEG or PNG in the tables."
    )
    codec: Literal["h264", "av1", "copy"] = Field(
        default="h264", description="Codec of the videos; copy: the JPEG files as they came."
    )
    image_statistics: Literal["exact", "sampled"] | None = Field(
        default=None, description="Of all images or of some; default: sampled for codec copy."
    )
    crf: int = Field(
        default=23, ge=0, le=63, description="Constant quality: less is better and larger."
    )
    preset: str = Field(
        default="", description="Preset of the encoder; empty: superfast (av1: 12)."
    )
    gop: int = Field(default=2, ge=1, description="Frames from key frame to key frame.")

    @property
    def samples_images(self) -> bool:
        """Whether statistics come from some of the images."""
        default = "sampled" if self.codec == "copy" else "exact"
        return (self.image_statistics or default) == "sampled"

    data_file_mb: int = Field(
        default=100, ge=1, le=2000, description="Size that a table file stays under."
    )
    video_file_mb: int = Field(
        default=200, ge=1, le=8000, description="Size a video file stays under."
    )


class Hdf5Output(_Model):
    """Names of features by what they are in HDF5 files; ``images`` maps datasets to features."""

    joint: str
    actions: str
    rewards: str
    terminals: str
    images: dict[str, str] = Field(default_factory=dict)


class Outputs(_Model):
    """What is written; at least one."""

    lerobot: LeRobotOutput | None = None
    hdf5: Hdf5Output | None = None


class Mapping(_Model):
    """A whole mapping file."""

    robot_type: str | None = None
    task: str = Field(min_length=1)
    fps: int = Field(ge=1, le=1000)
    rosbag: Rosbag = Rosbag()
    features: dict[str, Feature] = Field(min_length=1)
    outputs: Outputs = Outputs(lerobot=LeRobotOutput())

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.features:
            if not name or set(name) & set("/[]") or name in _RESERVED:
                raise ValueError(f"features: {name!r} is not a feature name one may choose")
        if self.rosbag.main is not None:
            self._known("rosbag.main", self.rosbag.main)
        outputs = self.outputs
        if outputs.lerobot is None and outputs.hdf5 is None:
            raise ValueError("outputs: name lerobot, hdf5, or both")
        if outputs.hdf5 is not None:
            for role, name in outputs.hdf5.model_dump(exclude={"images"}).items():
                self._known(f"outputs.hdf5.{role}", name)
            for dataset, name in outputs.hdf5.images.items():
                self._known(f"outputs.hdf5.images.{dataset}", name)
                if not dataset or "/" in dataset or dataset in ("joint", "."):
                    raise ValueError(f"outputs.hdf5.images: {dataset!r} cannot name a dataset")
        return self

    def _known(self, where: str, name: str) -> None:
        if name not in self.features:
            raise ValueError(f"{where} is {name!r}: the features are {', '.join(self.features)}")

    @cached_property
    def sources(self) -> dict[str, Part]:
        """What is taken from which topic, by key: the feature's name, ``name[i]`` for its parts."""
        return {
            key: part
            for name, feature in self.features.items()
            for key, part in zip(self.keys(name), feature.sources, strict=True)
        }

    @property
    def topics(self) -> list[str]:
        """All topics that are needed, each once, in the order of the features."""
        return list(dict.fromkeys(part.topic for part in self.sources.values()))

    def keys(self, name: str) -> list[str]:
        """Keys of the sources of feature ``name``."""
        parts = self.features[name].parts
        return [name] if parts is None else [f"{name}[{index}]" for index in range(len(parts))]

    def clock(self, source: str) -> Clock:
        """Clock that times the messages of a source."""
        return self.sources[source].time or self.rosbag.time

    def tolerance_s(self, source: str) -> float:
        """Seconds between a message and the moment it stands for, at most."""
        part = self.sources[source]
        if part.tolerance_s is not None:
            return part.tolerance_s
        return {"nearest": 0.5 / self.fps, "interpolate": 1.0 / self.fps, "hold": float("inf")}[
            part.align
        ]

    def with_definitions(self, definitions: dict[str, str]) -> Self:
        """The same with more definitions of message types; those that are there stay."""
        known = {**definitions, **self.rosbag.definitions}
        rosbag = self.rosbag.model_copy(update={"definitions": known})
        return self.model_copy(update={"rosbag": rosbag})

    def without_speed(self) -> dict[str, Any]:
        """All that decides the output's bytes: everything but ``rosbag.chunk_size``."""
        return self.model_dump(mode="json", exclude={"rosbag": {"chunk_size"}})
