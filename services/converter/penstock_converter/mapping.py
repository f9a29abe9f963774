"""The mapping: which topic, and which part of its messages, becomes which feature."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from penstock.errors import InvalidInput
from penstock_converter.fieldpath import FieldPath

__all__ = [
    "Feature",
    "Hdf5Output",
    "LeRobotOutput",
    "Mapping",
    "Outputs",
    "Rosbag",
    "load_mapping",
    "parse_mapping",
]

MAX_MAPPING_BYTES = 1 << 20
# Columns that every LeRobot dataset has by itself.
_RESERVED = frozenset({"timestamp", "frame_index", "episode_index", "index", "task_index", "task"})

Clock = Literal["receive", "header"]


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
    gap: Literal["fail", "drop", "hold"] = Field(
        default="fail",
        description="What a frame inside an episode without all its messages does: refuse the "
        "recording, go, or take what the frame before has.",
    )


class Feature(_Model):
    """Where one feature comes from.

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
        dtype: Type in the LeRobot dataset; default: video or image for images, bool for Bool,
            float32 for other numbers.
    """

    topic: str = Field(min_length=1)
    field: str | None = None
    names: tuple[str, ...] | None = Field(default=None, min_length=1)
    align: Literal["nearest", "hold", "interpolate"] = "nearest"
    tolerance_s: float | None = Field(default=None, ge=0, le=1e6)
    offset_s: float = Field(default=0.0, ge=-1e6, le=1e6)
    time: Clock | None = None
    dtype: Literal["video", "image", "float32", "float64", "int64", "bool"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.field is not None:
            FieldPath.parse(self.field)
        if self.names is not None and len(set(self.names)) != len(self.names):
            raise ValueError(f"names {list(self.names)} repeat one")
        if self.align == "interpolate" and self.dtype not in (None, "float32", "float64"):
            raise ValueError(f"align: interpolate does not fit dtype {self.dtype}")
        return self


class LeRobotOutput(_Model):
    """How the LeRobot dataset is written."""

    video: bool = Field(
        default=True, description="Images as videos; false: JPEG or PNG in the tables."
    )
    codec: Literal["h264", "av1"] = Field(default="h264", description="Codec of the videos.")
    crf: int = Field(
        default=23, ge=0, le=63, description="Constant quality: less is better and larger."
    )
    preset: str = Field(
        default="", description="Preset of the encoder; empty: superfast (av1: 12)."
    )
    gop: int = Field(default=2, ge=1, description="Frames from key frame to key frame.")
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
            if not name or "/" in name or name in _RESERVED:
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

    def clock(self, name: str) -> Clock:
        """Clock that times the messages of feature ``name``."""
        return self.features[name].time or self.rosbag.time

    def tolerance_s(self, name: str) -> float:
        """Seconds between a message and the moment it stands for, at most."""
        feature = self.features[name]
        if feature.tolerance_s is not None:
            return feature.tolerance_s
        return {"nearest": 0.5 / self.fps, "interpolate": 1.0 / self.fps, "hold": float("inf")}[
            feature.align
        ]

    def without_speed(self) -> dict[str, Any]:
        """All that decides the output's bytes: everything but ``rosbag.chunk_size``."""
        return self.model_dump(mode="json", exclude={"rosbag": {"chunk_size"}})


def load_mapping(path: Path, overrides: Iterable[str] = ()) -> Mapping:
    """Read a mapping file.

    Raises:
        InvalidInput: The file cannot be read, or see ``parse_mapping``.
    """
    try:
        if path.stat().st_size > MAX_MAPPING_BYTES:
            raise InvalidInput(f"mapping {path} is larger than {MAX_MAPPING_BYTES} bytes")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"mapping {path} cannot be read: {error}", field="mapping") from error
    return parse_mapping(text, overrides, source=str(path))


def parse_mapping(text: str, overrides: Iterable[str] = (), *, source: str = "mapping") -> Mapping:
    """Parse a mapping and apply dotted overrides such as ``rosbag.chunk_size=1000``.

    A name with dots, such as a feature's, goes into brackets: ``features[next.reward].topic=/r``.

    Raises:
        InvalidInput: The text is no YAML, a key is unknown or a value does not fit; names it.
    """
    if len(text) > MAX_MAPPING_BYTES:
        raise InvalidInput(f"{source} is larger than {MAX_MAPPING_BYTES} bytes", field="mapping")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        why = " ".join(str(error).replace("<unicode string>", source).split())
        raise InvalidInput(f"{source} is not YAML: {why}", field="mapping") from error
    if not isinstance(content, dict):
        raise InvalidInput(
            f"{source} holds a {type(content).__name__}: expected keys such as fps and features",
            field="mapping",
        )
    for override in overrides:
        _override(content, override)
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        raise _explain(source, error) from error


def _override(content: dict[Any, Any], text: str) -> None:
    """Set one value in place; the value is YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidInput(
            f"override {text!r}: write it as key=value, e.g. rosbag.chunk_size=1000", field=text
        )
    try:
        path = _split(key)
        # OmegaConf reads the value as it would in a file: numbers, lists, null, quotes. Nothing
        # is interpolated: clients of a service must not read its environment.
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"v={value}"]), resolve=False)
        parsed = parsed["v"]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise InvalidInput(f"override {text!r}: {error}", field=key) from error
    node: Any = content
    for part in path[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise InvalidInput(f"override {text!r}: {part!r} holds no further keys", field=key)
        node = child
    node[path[-1]] = parsed


def _split(key: str) -> list[str]:
    """``a[b.c].d`` into ``a``, ``b.c``, ``d``."""
    parts: list[str] = []
    for position, piece in enumerate(key.split("[")):
        inside, closed, rest = piece.partition("]") if position else ("", "", piece)
        if position and not closed:
            raise ValueError("a bracket is not closed")
        parts += [inside] if position else []
        parts += [part for part in rest.split(".") if part]
    if not parts:
        raise ValueError("the key is empty")
    return parts


def _explain(source: str, error: ValidationError) -> InvalidInput:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"][:-1])
        return InvalidInput(
            f"{source}: {field} is not known: the keys there are {', '.join(known)}", field=field
        )
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return InvalidInput(f"{source}: {field} is missing", field=field)
    given = problem["input"]
    shown = isinstance(given, str | int | float | bool | None)
    value = f" is {given!r:.100}" if shown else ""
    where = f"{field}{value}: " if field else ""
    return InvalidInput(f"{source}: {where}{message}", field=field)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "": Mapping,
        "rosbag": Rosbag,
        "features": Feature,
        "outputs": Outputs,
        "outputs.lerobot": LeRobotOutput,
        "outputs.hdf5": Hdf5Output,
    }
    name = "features" if location[:1] == ("features",) else ".".join(map(str, location))
    return list(models[name].model_fields)
