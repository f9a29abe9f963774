"""Segments of rollouts without the native library; rollout_encode.c has the format."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.native.rollout_plain_streams import (
    STREAM,
    DamagedError,
    get_stream,
    put_stream,
)

__all__ = ["decode_plainly", "encode_plainly"]

Bytes = NDArray[np.uint8]
Rows = NDArray[np.unsignedinteger[Any]]

_RAW = 0
_RUNS, _RUN = 8, 16
_SAME_SAVES, _NEAR_BITS, _LEAST_SAVED = 4, 3, 8
_NEAR, _DISTANCE, _ENOUGH = 8, 7, 5


def encode_plainly(
    rows: NDArray[np.void],
) -> tuple[Bytes, NDArray[np.int64], NDArray[np.uint64]]:
    """What ``RolloutCoder.encode`` gives."""
    segments = [_encode(line) for line in rows]
    hashes = [xxhash.xxh3_64_intdigest(segment) for segment in segments]
    sizes = [len(segment) for segment in segments]
    data = np.frombuffer(b"".join(segments), np.uint8)
    return data, np.array(sizes, np.int64), np.array(hashes, np.uint64)


def decode_plainly(rows: NDArray[np.void]) -> int:
    """What ``RolloutCoder.decode`` gives."""
    base: Rows | None = None
    for number, line in enumerate(rows):
        of = line["of"]
        data = _memory(int(line["data"]), int(line["data_bytes"])).tobytes()
        if xxhash.xxh3_64_intdigest(data) != int(line["hash"]):
            return number
        try:
            found = _decode(data, of, base if of["follows"] else None)
        except (DamagedError, struct.error):
            return number
        if not of["follows"]:
            base = found
        if line["out"]:
            _place(line, found)
    return len(rows)


def _encode(line: np.void) -> bytes:
    of = line["of"]
    rows = _rows(line, "rows", "env_stride", "step_stride")
    envs, steps, elements = rows.shape
    bitmap, first = b"", rows[:, 0]
    if of["follows"]:
        base = _rows(line, "base", "base_env_stride", "base_step_stride")
        differs = np.ones((envs, steps), bool)
        differs[:, :-1] = (rows[:, :-1] != base[:, 1:]).any(2)
        bitmap = np.packbits(differs, bitorder="little").tobytes()
        rows, before, first = rows[differs], base[differs], first[:0]
    else:
        before = np.concatenate((rows[:, :1], rows[:, :-1]), 1).reshape(-1, elements)
        rows = rows.reshape(-1, elements)
    raw = bytes([_RAW]) + bitmap + rows.tobytes()
    if of["codec"] == _RAW:
        return raw
    packed = _pack(of, int(line["effort"]), rows, before, first, bitmap)
    return packed if len(packed) < len(raw) else raw


def _pack(of: np.void, effort: int, rows: Rows, before: Rows, first: Rows, bitmap: bytes) -> bytes:
    codec, item = int(of["codec"]), rows.dtype.itemsize
    lines = np.ascontiguousarray((rows - before).T)
    chosen = _choose(lines, of["distances"])
    having = int((chosen > 0).sum())
    same = _same(lines, chosen, of["distances"])
    kept = (lines != 0) & ~same
    head = bitmap + (chosen.tobytes() if having else b"") + first.tobytes()
    masks = np.packbits(kept, axis=1, bitorder="little").tobytes()
    masks += np.packbits(same[chosen > 0], axis=1, bitorder="little").tobytes()
    numbers = _zigzag(_nearer(lines, chosen, of["distances"])[kept])
    planes = np.ascontiguousarray(numbers.view(np.uint8).reshape(-1, item).T)
    streams = [put_stream(codec, effort, head, may_be_sparse=False)]
    streams += [
        put_stream(codec, effort, stream) for stream in (masks, *(p.tobytes() for p in planes))
    ]
    fixed = [len(numbers), *([len(rows)] if bitmap else []), having]
    found = bytes([codec]) + struct.pack(f"<{len(fixed)}I", *fixed)
    found += b"".join(STREAM.pack(way, len(stored)) for way, stored in streams)
    return found + b"".join(stored for _, stored in streams)


def _choose(lines: Rows, distances: NDArray[np.int64]) -> Bytes:
    elements, columns = lines.shape
    blocks = -(-columns // _RUN)
    padded = np.pad(lines, ((0, 0), (0, blocks * _RUN - columns)))
    runs = min(_RUNS, blocks)
    begins = [blocks * run // runs * _RUN for run in range(runs)]
    sample = np.concatenate([padded[:, begin : begin + _RUN] for begin in begins], 1)
    chosen, most = np.zeros(elements, np.uint8), np.full(elements, _LEAST_SAVED - 1)
    some = (sample != 0).sum(1)
    is_open = some > 1
    for place, distance in enumerate(distances.tolist()):
        if not 1 <= distance < elements:
            continue
        line, earlier = sample[distance:], sample[:-distance]
        same = ((line == earlier) & (line != 0)).sum(1)
        nearer = _nearer_by(line, earlier) if place == 0 else np.zeros(len(line), np.int64)
        saved = _SAME_SAVES * same + nearer
        better = (saved > most[distance:]) & is_open[distance:]
        is_open[distance:] &= _ENOUGH * same < (_ENOUGH - 1) * some[distance:]
        choice = place + 1 + np.where(nearer > 0, _NEAR, 0)
        chosen[distance:][better] = choice[better]
        most[distance:][better] = saved[better]
    return chosen


def _nearer_by(line: Rows, earlier: Rows) -> NDArray[np.int64]:
    """How many more numbers of lines are near those of earlier ones than far; 0 for too few."""
    others = (line != earlier) & (line != 0)
    whole, rest = _zigzag(line), _zigzag(line - earlier)
    bits = line.dtype.type(_NEAR_BITS)
    nearer = (others & (rest <= whole >> bits)).sum(1).astype(np.int64)
    nearer -= (others & (whole <= rest >> bits)).sum(1)
    return np.where((nearer > 1) & (nearer * 8 >= others.sum(1)), nearer, 0)


def _distances(chosen: Bytes, distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the lines that chose one."""
    return distances[(chosen[chosen > 0] & _DISTANCE).astype(np.int64) - 1]


def _same(lines: Rows, chosen: Bytes, distances: NDArray[np.int64]) -> NDArray[np.bool_]:
    same = np.zeros(lines.shape, bool)
    having = np.flatnonzero(chosen)
    earlier = having - _distances(chosen, distances)
    same[having] = (lines[having] == lines[earlier]) & (lines[having] != 0)
    return same


def _nearer(lines: Rows, chosen: Bytes, distances: NDArray[np.int64]) -> Rows:
    """Lines that are near an earlier one become the difference to it."""
    found = lines.copy()
    near = np.flatnonzero(chosen & _NEAR)
    earlier = near - distances[(chosen[near] & _DISTANCE).astype(np.int64) - 1]
    found[near] -= lines[earlier]
    return found


def _decode(data: bytes, of: np.void, base: Rows | None) -> Rows:
    item, elements, envs, steps = (int(of[name]) for name in ("item", "elements", "envs", "steps"))
    dtype = np.dtype(f"<u{item}")
    bitmap_bytes = 0 if base is None else -(-envs * steps // 8)
    if not data:
        raise DamagedError
    if data[0] == _RAW:
        body = data[1 + bitmap_bytes :]
        if len(body) % (elements * item):
            raise DamagedError
        rows = np.frombuffer(body, dtype).reshape(-1, elements)
        if base is not None:
            return _follow(data[1 : 1 + bitmap_bytes], base, rows)
        if len(rows) != envs * steps:
            raise DamagedError
        return rows.reshape(envs, steps, elements)
    if data[0] != of["codec"]:
        raise DamagedError
    return _unpack(data, of, base, dtype)


def _unpack(data: bytes, of: np.void, base: Rows | None, dtype: np.dtype[Any]) -> Rows:
    item, elements, envs, steps = (int(of[name]) for name in ("item", "elements", "envs", "steps"))
    codec, columns = int(of["codec"]), envs * steps
    names = 2 + (base is not None)
    fixed = struct.unpack_from(f"<{names}I", data, 1)
    count, having = fixed[0], fixed[-1]
    if base is not None:
        if fixed[1] > columns:
            raise DamagedError
        columns = fixed[1]
    if count > columns * elements or having > elements:
        raise DamagedError
    at = 1 + 4 * names
    stored = [STREAM.unpack_from(data, at + number * STREAM.size) for number in range(2 + item)]
    at += STREAM.size * len(stored)
    if at + sum(size for _, size in stored) != len(data):
        raise DamagedError
    line_bytes = -(-columns // 8)
    bitmap_bytes = 0 if base is None else -(-envs * steps // 8)
    chosen_at = bitmap_bytes + (elements if having else 0)
    head_bytes = chosen_at + (envs * elements * item if base is None else 0)
    streams: list[bytes] = []
    wholes = head_bytes, (elements + having) * line_bytes, *item * [count]
    for (way, size), whole in zip(stored, wholes, strict=True):
        streams.append(get_stream(codec, way, data[at : at + size], whole))
        at += size
    head, masks = streams[:2]
    bitmap, chosen, first = head[:bitmap_bytes], head[bitmap_bytes:chosen_at], head[chosen_at:]
    kept_bits, same_bits = masks[: elements * line_bytes], masks[elements * line_bytes :]
    kept = _bits(kept_bits, elements, columns)
    if int(kept.sum()) != count:
        raise DamagedError
    lines = np.zeros((elements, columns), dtype)
    planes = np.frombuffer(b"".join(streams[2:]), np.uint8).reshape(item, count)
    lines[kept] = _unzigzag(np.ascontiguousarray(planes.T).view(dtype).reshape(-1))
    choices = np.frombuffer(chosen, np.uint8)
    if int((choices > 0).sum()) != having:
        raise DamagedError
    if having:
        _repeat(lines, kept, choices, same_bits, of["distances"])
    differences = lines.T
    if base is not None:
        return _follow(bitmap, base, differences, add=True)
    rows = np.ascontiguousarray(differences).reshape(envs, steps, elements)
    rows[:, 0] += np.frombuffer(first, dtype).reshape(envs, elements)
    return np.cumsum(rows, axis=1, dtype=dtype)


def _repeat(
    lines: Rows, kept: NDArray[np.bool_], chosen: Bytes, bits: bytes, distances: NDArray[np.int64]
) -> None:
    """Fill in what lines have from earlier ones."""
    places = np.flatnonzero(chosen)
    near, choice = chosen[places] & _NEAR, (chosen[places] & _DISTANCE).astype(np.int64)
    if (chosen > _NEAR + _DISTANCE).any() or ((choice < 1) | (choice > len(distances))).any():
        raise DamagedError
    found = distances[choice - 1]
    if ((found < 1) | (found > places)).any():
        raise DamagedError
    same = _bits(bits, len(places), lines.shape[1], padded=True)
    for line, distance, is_near, again in zip(places, found, near, same, strict=True):
        earlier = lines[line - distance]
        if is_near:
            lines[line, kept[line]] += earlier[kept[line]]
        lines[line, again] = earlier[again]


def _bits(data: bytes, lines: int, columns: int, *, padded: bool = False) -> NDArray[np.bool_]:
    packed = np.frombuffer(data, np.uint8).reshape(lines, -1)
    bits = np.unpackbits(packed, axis=1, bitorder="little").astype(bool)
    if bits[:, columns:].any() and not padded:
        raise DamagedError
    return bits[:, :columns]


def _follow(bitmap: bytes, base: Rows, rows: Rows, *, add: bool = False) -> Rows:
    envs, steps = base.shape[:2]
    if len(bitmap) != -(-envs * steps // 8):
        raise DamagedError
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little").astype(bool)
    differs = bits[: envs * steps].reshape(envs, steps)
    beyond = bits[envs * steps :].any()
    if beyond or not differs[:, -1].all() or int(differs.sum()) != len(rows):
        raise DamagedError
    found = np.empty_like(base)
    found[:, :-1] = base[:, 1:]
    found[differs] = rows + base[differs] if add else rows
    return found


def _zigzag(differences: Rows) -> Rows:
    bits = 8 * differences.dtype.itemsize
    signed = differences.view(f"i{differences.dtype.itemsize}")
    return ((signed << 1) ^ (signed >> (bits - 1))).view(differences.dtype)


def _unzigzag(numbers: Rows) -> Rows:
    one = numbers.dtype.type(1)
    return (numbers >> one) ^ (~(numbers & one) + one)


def _rows(line: np.void, where: str, env_stride: str, step_stride: str) -> Rows:
    of = line["of"]
    envs, steps, elements, item = (int(of[name]) for name in ("envs", "steps", "elements", "item"))
    strides = int(line[env_stride]), int(line[step_stride]), item
    reach = (envs - 1) * strides[0] + (steps - 1) * strides[1] + elements * item
    memory = _memory(int(line[where]), reach)
    shape = envs, steps, elements
    return np.ndarray(shape, f"<u{item}", memory, strides=strides)  # type: ignore[call-overload]


def _place(line: np.void, rows: Rows) -> None:
    envs, _, elements = rows.shape
    first, end, stride = (int(line[name]) for name in ("first_step", "end_step", "env_stride"))
    places = _memory(int(line["places"]), 8 * envs).view(np.int64)
    size = (end - first) * elements * rows.dtype.itemsize
    for env, place in enumerate(places.tolist()):
        if place >= 0:
            target = _memory(int(line["out"]) + place * stride, size)
            target[:] = np.ascontiguousarray(rows[env, first:end]).reshape(-1).view(np.uint8)


def _memory(address: int, size: int) -> Bytes:
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
