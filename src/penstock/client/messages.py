"""Translates between the SDK's types and the sampler's messages, both ways.

Whatever comes from a wire is checked here: sizes before any allocation, shapes against what the
reader knows already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.codecs import CODECS, codec_named, encode_smallest
from penstock.dataset import (
    Camera,
    ColumnStatistics,
    DataFile,
    DatasetInfo,
    EpisodeTable,
    RefusedFile,
)
from penstock.errors import Corrupt, InvalidInput
from penstock.plan import Plan, Sampling, Split
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

__all__ = [
    "ACCEPTED_CODECS",
    "codec_names",
    "dataset_from_message",
    "dataset_to_message",
    "episodes_from_messages",
    "episodes_to_messages",
    "part_into_batch",
    "part_to_message",
    "plan_from_message",
    "plan_to_message",
    "spec_from_message",
    "tensor_from_message",
    "tensor_to_message",
]

_CODEC_NAMES: dict[tb.Codec, str] = {tb.CODEC_RAW: "raw", tb.CODEC_LZ4: "lz4"}
_CODEC_NUMBERS = {name: number for number, name in _CODEC_NAMES.items()}
ACCEPTED_CODECS = [tb.CODEC_LZ4, tb.CODEC_RAW]

_DTYPES: dict[tb.Dtype, np.dtype[np.generic]] = {
    tb.DTYPE_BOOL: np.dtype(np.bool_),
    tb.DTYPE_UINT8: np.dtype(np.uint8),
    tb.DTYPE_INT8: np.dtype(np.int8),
    tb.DTYPE_INT16: np.dtype("<i2"),
    tb.DTYPE_INT32: np.dtype("<i4"),
    tb.DTYPE_INT64: np.dtype("<i8"),
    tb.DTYPE_FLOAT16: np.dtype("<f2"),
    tb.DTYPE_FLOAT32: np.dtype("<f4"),
    tb.DTYPE_FLOAT64: np.dtype("<f8"),
    tb.DTYPE_UINT16: np.dtype("<u2"),
    tb.DTYPE_UINT32: np.dtype("<u4"),
    tb.DTYPE_UINT64: np.dtype("<u8"),
}
_DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}

_SPLITS: dict[int, Split] = {0: "train", 1: "train", 2: "val", 3: "all"}
_SAMPLINGS: dict[int, Sampling] = {0: "uniform", 1: "uniform", 2: "epoch"}
_EPISODES_PER_MESSAGE = 65_536
_MAX_TENSOR_BYTES = 64 << 20


def codec_names(numbers: Sequence[tb.Codec]) -> tuple[str, ...]:
    """Names of the codecs a peer accepts; none stands for raw."""
    return tuple(_CODEC_NAMES[n] for n in numbers if n in _CODEC_NAMES) or ("raw",)


def tensor_to_message(
    name: str, values: NDArray[np.generic], accepted: tuple[str, ...] = ("raw",)
) -> tb.Tensor:
    """One array as a message, encoded with what gains most of ``accepted``."""
    values = np.ascontiguousarray(values)
    if values.dtype not in _DTYPE_NUMBERS:
        raise InvalidInput(f"{name} is {values.dtype}: it has no place on the wire", field=name)
    codec, data = encode_smallest(values.reshape(-1).view(np.uint8).data, accepted)
    return tb.Tensor(
        name=name,
        dtype=_DTYPE_NUMBERS[values.dtype],
        shape=values.shape,
        codec=_CODEC_NUMBERS[codec],
        raw_size_bytes=values.nbytes,
        data=data,
    )


def tensor_from_message(
    message: tb.Tensor, max_bytes: int = _MAX_TENSOR_BYTES
) -> NDArray[np.generic]:
    """The array of a message; its size is checked against ``max_bytes`` before it is allocated.

    Raises:
        InvalidInput: Unknown dtype or codec, or shape and size disagree.
        Corrupt: The data does not decode.
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise InvalidInput(f"{message.name}: dtype {message.dtype} is not known", field="dtype")
    shape = tuple(message.shape)
    if any(extent < 0 for extent in shape) or len(shape) > 8:  # noqa: PLR2004 - more axes than any use
        raise InvalidInput(f"{message.name}: shape {shape} is no shape", field="shape")
    size = math.prod(shape) * dtype.itemsize
    if size != message.raw_size_bytes or size > max_bytes:
        raise InvalidInput(
            f"{message.name}: shape {shape} {dtype} needs {size} bytes, {message.raw_size_bytes} "
            f"are announced, {max_bytes} are allowed",
            field="raw_size_bytes",
        )
    out = np.empty(shape, dtype)
    _decode(message, out)
    return out


def plan_to_message(plan: Plan) -> pb.Plan:
    """A plan as it travels."""
    return pb.Plan(
        seed=plan.seed,
        batch_size=plan.batch_size,
        split={"train": pb.SPLIT_TRAIN, "val": pb.SPLIT_VAL, "all": pb.SPLIT_ALL}[plan.split],
        train_fraction=plan.train_fraction,
        sampling={"uniform": pb.SAMPLING_UNIFORM, "epoch": pb.SAMPLING_EPOCH}[plan.sampling],
        num_traj=plan.num_traj or 0,
        rank=plan.rank,
        world=plan.world,
    )


def plan_from_message(message: pb.Plan) -> Plan:
    """A plan as it was meant.

    Raises:
        InvalidInput: A field is out of range, or of a newer version than this server.
    """
    unknown = [field.field_number for field in UnknownFieldSet(message)]
    if unknown:
        raise InvalidInput(
            f"plan has fields that this server does not know (numbers {unknown}): update the "
            "server, or leave them out",
            field="plan",
        )
    if message.split not in _SPLITS or message.sampling not in _SAMPLINGS:
        raise InvalidInput(
            f"plan.split {message.split} or plan.sampling {message.sampling} is not known here",
            field="plan",
        )
    return Plan(
        seed=message.seed,
        batch_size=message.batch_size,
        split=_SPLITS[message.split],
        train_fraction=message.train_fraction or 0.9,
        sampling=_SAMPLINGS[message.sampling],
        num_traj=message.num_traj or None,
        rank=message.rank,
        world=message.world or 1,
    )


def spec_from_message(message: pb.FrameSpec) -> FrameSpec:
    """The image size that is asked for."""
    return FrameSpec(height=message.height_px, width=message.width_px)


def dataset_to_message(info: DatasetInfo) -> pb.DatasetInfo:
    """A dataset's description as it travels."""
    return pb.DatasetInfo(
        version=info.version,
        cameras=[
            pb.Camera(name=c.name, height_px=c.height, width_px=c.width, channels=c.channels)
            for c in info.cameras
        ],
        joint_dim=info.joint_dim,
        action_dim=info.action_dim,
        transitions=info.transitions,
        episodes=info.episodes,
        files=[
            pb.DataFile(file_id=f.file_id, size_bytes=f.size_bytes, rows=f.rows, held=f.held)
            for f in info.files
        ],
        refused=[
            pb.RefusedFile(file_id=r.file_id, reason=r.reason, message=r.message)
            for r in info.refused
        ],
        dropped_rows=info.dropped_rows,
        statistics={
            name: pb.ColumnStatistics(
                mean=column.mean.tolist(),
                std=column.std.tolist(),
                min=column.min.tolist(),
                max=column.max.tolist(),
                count=column.count,
            )
            for name, column in info.statistics.items()
        },
        codecs=[_CODEC_NUMBERS[name] for name in info.codecs],
    )


def dataset_from_message(message: pb.DatasetInfo) -> DatasetInfo:
    """A dataset's description as it was meant."""

    def column(values: Iterable[float]) -> NDArray[np.float32]:
        return np.fromiter(values, np.float32)

    return DatasetInfo(
        version=message.version,
        cameras=tuple(Camera(c.name, c.height_px, c.width_px, c.channels) for c in message.cameras),
        joint_dim=message.joint_dim,
        action_dim=message.action_dim,
        transitions=message.transitions,
        episodes=message.episodes,
        files=tuple(DataFile(f.file_id, f.size_bytes, f.rows, f.held) for f in message.files),
        refused=tuple(RefusedFile(r.file_id, r.reason, r.message) for r in message.refused),
        dropped_rows=message.dropped_rows,
        statistics={
            name: ColumnStatistics(
                column(s.mean), column(s.std), column(s.min), column(s.max), s.count
            )
            for name, s in message.statistics.items()
        },
        codecs=codec_names(message.codecs),
    )


def episodes_to_messages(table: EpisodeTable) -> Iterable[pb.EpisodeColumns]:
    """The episode table in messages of bounded size."""
    for start in range(0, len(table), _EPISODES_PER_MESSAGE):
        part = slice(start, start + _EPISODES_PER_MESSAGE)
        yield pb.EpisodeColumns(
            file=table.file[part].tolist(),
            first_row=table.first_row[part].tolist(),
            length=table.length[part].tolist(),
            outcome=table.outcome[part].tobytes(),
            split_key=table.split_key[part].tolist(),
        )


def episodes_from_messages(messages: Iterable[pb.EpisodeColumns]) -> EpisodeTable:
    """The episode table of a stream of messages."""
    parts = list(messages)
    none = pb.EpisodeColumns()
    return EpisodeTable(
        file=np.concatenate([np.array(m.file, np.int32) for m in (none, *parts)]),
        first_row=np.concatenate([np.array(m.first_row, np.int64) for m in (none, *parts)]),
        length=np.concatenate([np.array(m.length, np.int32) for m in (none, *parts)]),
        outcome=np.concatenate([np.frombuffer(m.outcome, np.uint8) for m in (none, *parts)]),
        split_key=np.concatenate([np.array(m.split_key, np.uint64) for m in (none, *parts)]),
    )


def part_to_message(batch: Batch, first_row: int, accepted: tuple[str, ...]) -> pb.BatchPart:
    """Rows of a batch as they travel; ``first_row`` is where they go in the whole."""
    return pb.BatchPart(
        first_row=first_row,
        rows=len(batch),
        transition_ids=batch.transition_ids.tolist(),
        frames=tensor_to_message("frames", batch.frames, accepted),
        columns=[tensor_to_message(name, values) for name, values in batch.columns.items()],
    )


def part_into_batch(part: pb.BatchPart, out: Batch) -> int:
    """Decode a part straight into its rows of ``out``; returns how many rows it filled.

    Raises:
        Corrupt: The part does not fit the batch, or does not decode.
    """
    stop = part.first_row + part.rows
    if not 0 < part.rows <= len(out) or stop > len(out):
        raise Corrupt(f"part has rows {part.first_row} to {stop}, the batch has {len(out)}")
    rows = out.rows(part.first_row, stop)
    if list(part.transition_ids) != rows.transition_ids.tolist():
        raise Corrupt(f"part with rows {part.first_row} to {stop} holds other transitions")
    _decode_checked(part.frames, rows.frames)
    columns = {tensor.name: tensor for tensor in part.columns}
    for name, values in rows.columns.items():
        if name not in columns:
            raise Corrupt(f"part has no column {name!r}")
        _decode_checked(columns[name], values)
    return part.rows


def _decode_checked(message: tb.Tensor, out: NDArray[np.generic]) -> None:
    if (
        tuple(message.shape) != out.shape
        or message.raw_size_bytes != out.nbytes
        or _DTYPES.get(message.dtype) != out.dtype
    ):
        raise Corrupt(
            f"{message.name} arrives as {tuple(message.shape)} with {message.raw_size_bytes} "
            f"bytes, expected {out.shape} {out.dtype}"
        )
    _decode(message, out)


def _decode(message: tb.Tensor, out: NDArray[np.generic]) -> None:
    name = _CODEC_NAMES.get(message.codec)
    if name not in CODECS:
        raise InvalidInput(f"{message.name}: codec {message.codec} is not known", field="codec")
    if out.nbytes:
        codec_named(name).decode_into(message.data, out.reshape(-1).view(np.uint8))
