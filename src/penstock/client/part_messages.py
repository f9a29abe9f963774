"""Translates parts of batches to messages and back.

Whatever comes from a wire is checked here against what the reader asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch
from penstock.client.messages import CODEC_NAMES, CODEC_NUMBERS, tensor_into, tensor_to_message
from penstock.errors import Corrupt, InvalidInput
from penstock.observations import Observations, decode_observations
from penstock.v1 import sampler_pb2 as pb

__all__ = [
    "observations_from_message",
    "observations_to_message",
    "part_into_batch",
    "part_into_rows",
    "part_to_message",
]


def part_to_message(batch: Batch, first_row: int) -> pb.BatchPart:
    """Rows of a batch as they travel, without their frames.

    Args:
        batch: The columns; its frames are not looked at.
        first_row: Where they go in the whole: of the request (Fetch) or the step (Sample).
    """
    return pb.BatchPart(
        first_row=first_row,
        rows=len(batch),
        transition_ids=batch.transition_ids.tolist(),
        columns=[tensor_to_message(name, values) for name, values in batch.columns.items()],
    )


def observations_to_message(
    codec: str,
    size: tuple[int, int],
    image_bytes: NDArray[np.uint32],
    current: Sequence[int],
    following: Sequence[int],
    hashes: NDArray[np.uint64] | None = None,
) -> pb.Observations:
    """The frames of a part as they travel, all but the encoded images.

    Args:
        codec: Of every image.
        size: Height and width of every image.
        image_bytes: ``(N, C) uint32``: encoded size of each camera's image.
        current: For each row of the part, which of them it shows.
        following: Likewise, for its next observation.
        hashes: Hash and seed of each observation, ``(N, 2)``, where nobody has checked them.
    """
    return pb.Observations(
        count=len(image_bytes),
        codec=CODEC_NUMBERS[codec],
        height_px=size[0],
        width_px=size[1],
        image_bytes=image_bytes.reshape(-1).tolist(),
        current=current,
        next=following,
        hashes=None if hashes is None else hashes[:, 0].tolist(),
        hash_seeds=None if hashes is None else hashes[:, 1].tolist(),
    )


def observations_from_message(
    message: pb.Observations, shape: tuple[int, ...], data: memoryview | None = None
) -> Observations:
    """The frames of a part, checked against the ``shape`` of what they are for.

    Args:
        message: What arrived.
        shape: ``(n, 2, C, H, W, 3)``.
        data: The encoded images, where they are not in the message.

    Raises:
        Corrupt: They are not what was asked for, or do not add up.
        InvalidInput: The codec is not known here.
    """
    codec = CODEC_NAMES.get(message.codec)
    if codec is None:
        raise InvalidInput(f"observations: codec {message.codec} is not known", field="codec")
    rows, _, cameras, height, width, _ = shape
    told = (message.height_px, message.width_px, len(message.current), len(message.next))
    if told != (height, width, rows, rows) or len(message.image_bytes) != message.count * cameras:
        raise Corrupt(
            f"{message.count} observations of {message.height_px}x{message.width_px} with "
            f"{len(message.image_bytes)} images arrive for {len(message.current)} rows, expected "
            f"{height}x{width}, {cameras} cameras, {rows} rows"
        )
    observations = Observations(
        codec,
        height,
        width,
        np.array(message.image_bytes, np.uint32).reshape(message.count, cameras),
        message.data if data is None else data,
        np.array(message.current, np.int64),
        np.array(message.next, np.int64),
    )
    observations.check()
    return observations


def part_into_batch(part: pb.BatchPart, out: Batch) -> int:
    """Decode a part straight into its rows of ``out``; returns how many rows it filled.

    Raises:
        Corrupt: The part does not fit the batch, or does not decode.
    """
    stop = part.first_row + part.rows
    if not 0 < part.rows <= len(out) or stop > len(out):
        raise Corrupt(f"part has rows {part.first_row} to {stop}, the batch has {len(out)}")
    rows = np.arange(part.first_row, stop)
    part_into_rows(part, out, rows, out.transition_ids[rows])
    return part.rows


def part_into_rows(
    part: pb.BatchPart,
    out: Batch,
    rows: NDArray[np.int64],
    ids: NDArray[np.int64],
    *,
    with_frames: bool = True,
    data: memoryview | None = None,
) -> None:
    """Decode a part straight into any rows of ``out``.

    Args:
        part: What arrived.
        out: A whole batch, contiguous.
        rows: ``(part.rows,)``: where each row goes, no two to the same.
        ids: ``(part.rows,)``: the ids that the sender was asked for.
        with_frames: Whether frames were asked for.
        data: The encoded images, where they are not in the part.

    Raises:
        Corrupt: The part is not what was asked for, or does not decode.
    """
    span = f"part with rows {part.first_row} to {part.first_row + part.rows}"
    if part.rows != len(rows) or list(part.transition_ids) != ids.tolist():
        raise Corrupt(f"{span} holds other transitions")
    if not with_frames:
        pass
    elif part.HasField("observations"):
        shape = (len(rows), *out.frames.shape[1:])
        observations = observations_from_message(part.observations, shape, data)
        decode_observations(observations, out.frames, rows)
    elif out.frames.size:
        raise Corrupt(f"{span} has no frames")
    columns = {tensor.name: tensor for tensor in part.columns}
    for name, values in out.columns.items():
        if name not in columns:
            raise Corrupt(f"part has no column {name!r}")
        arrived = np.empty((len(rows), *values.shape[1:]), values.dtype)
        tensor_into(columns[name], arrived)
        values[rows] = arrived
