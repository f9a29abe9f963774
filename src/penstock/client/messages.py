"""Translates between the SDK's types and the sampler's messages, both ways.

Whatever comes from a wire is checked here: sizes before any allocation, shapes against what the
reader knows already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.batch import FrameSpec
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
from penstock.moments import Moments
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

__all__ = [
    "ACCEPTED_CODECS",
    "CODEC_NAMES",
    "CODEC_NUMBERS",
    "codec_names",
    "dataset_from_message",
    "dataset_to_message",
    "episodes_from_messages",
    "episodes_to_messages",
    "files_from_messages",
    "files_to_messages",
    "spec_from_message",
    "tensor_from_message",
    "tensor_into",
    "tensor_to_message",
]

CODEC_NAMES: dict[tb.Codec, str] = {
    tb.CODEC_RAW: "raw",
    tb.CODEC_LZ4: "lz4",
    tb.CODEC_BITPLANES: "bitplanes",
    tb.CODEC_BITPLANES_LZ4: "bitplanes_lz4",
}
CODEC_NUMBERS = {name: number for number, name in CODEC_NAMES.items()}
ACCEPTED_CODECS = list(CODEC_NAMES)

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

_EPISODES_PER_MESSAGE = 65_536
_FILES_PER_MESSAGE = 256
_MAX_TENSOR_BYTES = 64 << 20


def codec_names(numbers: Sequence[tb.Codec]) -> tuple[str, ...]:
    """Names of the codecs a peer accepts; none stands for raw."""
    return tuple(CODEC_NAMES[n] for n in numbers if n in CODEC_NAMES) or ("raw",)


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
        codec=CODEC_NUMBERS[codec],
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


def spec_from_message(message: pb.FrameSpec) -> FrameSpec:
    """The image size that is asked for."""
    return FrameSpec(height=message.height_px, width=message.width_px)


def dataset_to_message(info: DatasetInfo) -> pb.DatasetInfo:
    """A dataset's description as it travels."""
    return pb.DatasetInfo(
        version=info.version,
        cameras=_cameras_to_messages(info.cameras),
        joint_dim=info.joint_dim,
        action_dim=info.action_dim,
        transitions=info.transitions,
        episodes=info.episodes,
        files=[_file_to_message(file) for file in info.files],
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
        codecs=[CODEC_NUMBERS[name] for name in info.codecs],
    )


def dataset_from_message(message: pb.DatasetInfo) -> DatasetInfo:
    """A dataset's description as it was meant."""

    def column(values: Iterable[float]) -> NDArray[np.float32]:
        return np.fromiter(values, np.float32)

    return DatasetInfo(
        version=message.version,
        cameras=_cameras_from_messages(message.cameras),
        joint_dim=message.joint_dim,
        action_dim=message.action_dim,
        transitions=message.transitions,
        episodes=message.episodes,
        files=tuple(_file_from_message(file) for file in message.files),
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


def files_to_messages(files: Sequence[DataFile]) -> Iterable[pb.ListFilesResponse]:
    """Files with their moments, in messages of bounded size."""
    for start in range(0, len(files), _FILES_PER_MESSAGE):
        response = pb.ListFilesResponse()
        for file in files[start : start + _FILES_PER_MESSAGE]:
            message = _file_to_message(file)
            for name, moments in file.moments.items():
                message.moments[name].CopyFrom(
                    pb.ColumnMoments(
                        count=moments.count,
                        mean=moments.mean.tolist(),
                        squares=moments.squares.tolist(),
                        min=moments.min.tolist(),
                        max=moments.max.tolist(),
                    )
                )
            response.files.append(message)
        yield response


def files_from_messages(messages: Iterable[pb.ListFilesResponse]) -> tuple[DataFile, ...]:
    """Files with their moments."""
    return tuple(_file_from_message(file) for message in messages for file in message.files)


def _file_to_message(file: DataFile) -> pb.DataFile:
    return pb.DataFile(
        file_id=file.file_id,
        size_bytes=file.size_bytes,
        rows=file.rows,
        held=file.held,
        digest=file.digest,
        transitions=file.transitions,
        episodes=file.episodes,
        dropped_rows=file.dropped_rows,
        cameras=_cameras_to_messages(file.cameras),
    )


def _file_from_message(message: pb.DataFile) -> DataFile:
    def column(values: Iterable[float]) -> NDArray[np.float64]:
        return np.fromiter(values, np.float64)

    return DataFile(
        message.file_id,
        message.size_bytes,
        message.rows,
        held=message.held,
        digest=message.digest,
        transitions=message.transitions,
        episodes=message.episodes,
        dropped_rows=message.dropped_rows,
        cameras=_cameras_from_messages(message.cameras),
        moments={
            name: Moments(m.count, column(m.mean), column(m.squares), column(m.min), column(m.max))
            for name, m in message.moments.items()
        },
    )


def _cameras_to_messages(cameras: Iterable[Camera]) -> list[pb.Camera]:
    return [
        pb.Camera(name=c.name, height_px=c.height, width_px=c.width, channels=c.channels)
        for c in cameras
    ]


def _cameras_from_messages(messages: Iterable[pb.Camera]) -> tuple[Camera, ...]:
    return tuple(Camera(c.name, c.height_px, c.width_px, c.channels) for c in messages)


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


def tensor_into(message: tb.Tensor, out: NDArray[np.generic]) -> None:
    """Decode an array into ``out``, which has its shape and dtype.

    Raises:
        Corrupt: The message is of another shape or dtype, or does not decode.
    """
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
    name = CODEC_NAMES.get(message.codec)
    if name not in CODECS:
        raise InvalidInput(f"{message.name}: codec {message.codec} is not known", field="codec")
    if out.nbytes:
        codec_named(name).decode_into(message.data, out.reshape(-1).view(np.uint8))
