"""Feeds damaged and random input to every kernel at every level; run under sanitizers.

    python hostile_input.py LIBRARY

Prints how many calls were made. A sanitizer ends the process where a kernel reads or writes
outside of its arguments.
"""

from __future__ import annotations

import itertools
import struct
import sys
import tempfile
from pathlib import Path

import lz4.block
import numpy as np
import xxhash

from penstock import bitplanes
from penstock.codecs import IMAGE_CODECS, encode_images
from penstock.frame_file import FrameFile, FrameFileWriter, FrameHeader, FrameSource
from penstock.frame_file.header import record_hash
from penstock.native import LEVELS, Kernels, packed_room, xxh3_address
from penstock.native.rollouts import DISTANCES, ROWS_IN, ROWS_OUT, RolloutCoder, table
from penstock.resize import column_taps, row_taps

SHAPES = [(1, 1), (1, 3), (2, 63), (3, 64), (2, 65), (5, 100), (40, 3), (9, 192), (4, 672)]
# Height, width, rows and rounds; from 4 MiB on, images are written past the caches.
FRAMES = [(3, 30, 5, 40), (320, 448, 5, 4), (64, 1365, 10, 4), (64, 22, 500, 4)]
SIDES = [
    *((1, 1, 5, 5), (3, 2, 5, 9), (7, 3, 3, 50), (32, 33, 28, 29), (50, 40, 7, 3)),
    *((8, 100, 8, 88), (3, 100, 4, 43), (2, 300, 3, 50), (4, 7, 9, 64), (1, 1, 2, 22365)),
]


def exercise(kernels: Kernels, rng: np.random.Generator) -> int:
    calls = 0
    for shape in SHAPES:
        image = rng.integers(0, 2 ** int(rng.integers(0, 9)), (1, *shape), np.uint8)
        room = np.empty(bitplanes.max_encoded_bytes(image.size), np.uint8)
        sizes = np.empty(1, np.uint32)
        planes = room[: kernels.encode_bitplanes(image, room, sizes)]
        good = {
            "raw": image.tobytes(),
            "lz4": lz4.block.compress(image, store_size=False),
            "bitplanes": planes.tobytes(),
            "bitplanes_lz4": lz4.block.compress(planes, store_size=False),
        }
        for codec, encoded in good.items():
            for data in damaged(encoded, rng):
                # Arrays of exactly that size: one byte beyond is a finding.
                out = np.empty_like(image)
                kernels.decode_images(
                    IMAGE_CODECS.index(codec), data, np.array([data.size], np.uint32), out
                )
                kernels.lzf_decompress(data, out.reshape(-1))
                calls += 2
    calls += exercise_planes(kernels, rng)
    for height, width, out_height, out_width in SIDES:
        image = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        out = np.empty((2, out_height, out_width, 3), np.uint8)
        kernels.resize(image, out, row_taps(height, out_height), column_taps(width, out_width))
        calls += 1
    return calls


def exercise_planes(kernels: Kernels, rng: np.random.Generator) -> int:
    """Planes of checkpoints, of all sizes, and what is no packed plane."""
    calls = 0
    for count in (0, 1, 7, 8, 63, 64, 65, 200, 1000):
        for item in (2, 4, 8, 16):
            raw = rng.integers(0, 2 ** int(rng.integers(0, 9)), item * count, np.uint8)
            planes, out = np.empty_like(raw), np.empty_like(raw)
            kernels.split_planes(raw, item, planes)
            kernels.join_planes([plane.copy() for plane in planes.reshape(item, count)], out)
            assert out.tobytes() == raw.tobytes()
            kernels.split_bits(raw, planes)
            kernels.join_bits(planes, out)
            assert out.tobytes() == raw.tobytes()
            room = np.empty(packed_room(raw.size), np.uint8)
            for data in damaged(room[: kernels.pack(raw, room)].tobytes(), rng):
                kernels.unpack(data, out)
            if item <= 8:
                kernels.subtract(raw, planes, item, out)
                kernels.add_difference(planes, item, out)
                assert out.tobytes() == raw.tobytes()
            kernels.round_bfloat16(raw[: raw.size // 4 * 4], out[: raw.size // 4 * 2].copy())
            calls += 20
    return calls


def exercise_rollouts(kernels: Kernels, rng: np.random.Generator) -> int:
    """Segments of all forms, damaged and with the right hash, and what follows them."""
    calls = 0
    coder = RolloutCoder(kernels)
    for _ in range(20):
        item, codec = int(rng.choice([1, 2, 4, 8])), int(rng.integers(0, 3))
        envs, steps, elements = (int(rng.integers(1, most)) for most in (6, 40, 30))
        shape = envs, steps, elements
        rows = np.cumsum(rng.integers(0, 2 ** int(rng.integers(1, 50)), shape), 1)
        rows *= rng.random(shape) < rng.random()
        rows = rows.astype(f"u{item}")
        if elements > 2:
            rows[:, :, 2:] = np.where(rng.random() < 0.5, rows[:, :, :-2], rows[:, :, 2:])
        after = np.roll(rows, -1, 1)
        after[rng.random((envs, steps)) < 0.2] += 1
        lines = table(ROWS_IN, 2)
        for name, value in zip(
            ("item", "elements", "envs", "steps", "codec", "follows", "distances"),
            (item, elements, envs, steps, codec, (0, 1), np.arange(1, DISTANCES + 1)),
            strict=True,
        ):
            lines["of"][name] = value
        lines["effort"] = 1
        lines["rows"], lines["base"] = [rows.ctypes.data, after.ctypes.data], rows.ctypes.data
        for prefix in ("", "base_"):
            lines[f"{prefix}env_stride"], lines[f"{prefix}step_stride"] = rows.strides[:2]
        data, sizes, _ = coder.encode(lines)
        first, second = data[: sizes[0]].tobytes(), data[sizes[0] :].tobytes()
        pairs = [(np.frombuffer(first, np.uint8).copy(), np.frombuffer(second, np.uint8).copy())]
        pairs += [(hit, pairs[0][1]) for hit in damaged(first, rng) + struck(first, rng)]
        pairs += [(pairs[0][0], hit) for hit in damaged(second, rng) + struck(second, rng)]
        for number, pair in enumerate(pairs):
            found = np.empty((2, *shape), rows.dtype)
            done = decode_rows(coder, lines["of"], pair, found)
            if number == 0:
                assert done == 2
                assert found.tobytes() == rows.tobytes() + after.tobytes()
            calls += 1
    return calls


def decode_rows(
    coder: RolloutCoder, of: np.ndarray, pair: tuple[np.ndarray, np.ndarray], out: np.ndarray
) -> int:
    lines = table(ROWS_OUT, 2)
    lines["of"] = of
    places = np.arange(out.shape[1])
    for line, data, rows in zip(lines, pair, out, strict=True):
        line["data"], line["data_bytes"] = data.ctypes.data, data.size
        line["hash"] = xxhash.xxh3_64_intdigest(data.tobytes())
        line["out"], line["env_stride"] = rows.ctypes.data, rows.strides[0]
        line["places"], line["end_step"] = places.ctypes.data, out.shape[2]
    return coder.decode(lines)


def struck(encoded: bytes, rng: np.random.Generator) -> list[np.ndarray]:
    """Damage where sizes and ways are told."""
    found = []
    for _ in range(20):
        hit = np.frombuffer(encoded, np.uint8).copy()
        places = rng.integers(0, min(hit.size, 60), 2)
        hit[places] = rng.choice(np.array([0, 1, 2, 3, 255, rng.integers(256)], np.uint8), 2)
        found.append(hit)
    return found


def exercise_frames(kernels: Kernels, rng: np.random.Generator, folder: Path) -> int:
    """Files of cached frames with wild entries and bytes, many of them with the right hash."""
    calls, cameras = 0, 2
    for codec, (height, width, rows, rounds) in itertools.product(IMAGE_CODECS, FRAMES):
        path = folder / f"{codec}.frames"
        header = FrameHeader(FrameSource("x", 1, 1, "0"), height, width, ("a", "b"), codec, rows)
        frames = rng.integers(0, 256, (rows * cameras, height, width, 3), np.uint8)
        frames >>= rng.integers(0, 8, (rows * cameras, height, 1, 1)).astype(np.uint8)
        with FrameFileWriter(path, header) as writer:
            data, sizes = encode_images(codec, frames)
            writer.append(data, sizes.reshape(rows, cameras))
            writer.commit()
        file = FrameFile.open(path)
        fields = np.array([file.records.native_fields], np.int64)
        wanted = np.array([(0, row, row, 1) for row in range(rows)], np.int64)
        shape = (rows, cameras, height, 3 * width)
        # At a cache line, as the memory of batches is.
        memory = np.empty(frames.nbytes + 63, np.uint8)
        begin = -memory.ctypes.data % 64
        places, out = np.arange(rows), memory[begin : begin + frames.nbytes].reshape(shape)
        assert kernels.read_frames(xxh3_address(), fields, wanted, places, out) == rows
        assert out.tobytes() == frames.tobytes()
        sound = path.read_bytes()
        for _ in range(rounds):
            content = bytearray(sound)
            for _ in range(rng.integers(1, 4)):
                spoil(content, file, rng)
            path.write_bytes(content)
            kernels.read_frames(xxh3_address(), fields, wanted, places, out)
            calls += 1
    return calls


def spoil(content: bytearray, file: FrameFile, rng: np.random.Generator) -> None:
    header, data_at = file.header, file.records.data_offset
    at = file.records.index_offset + int(rng.integers(0, len(file))) * header.entry_bytes
    row = (at - file.records.index_offset) // header.entry_bytes
    offset, digest, *sizes = header.entry.unpack_from(content, at)
    kind = rng.integers(0, 4)
    if kind == 0:
        offset = [2**63 - 1, 2**64 - 99, header.data_bytes, offset % 99 + 1][rng.integers(4)]
    elif kind == 1:
        sizes[0] = [2**32 - 1, header.max_image_bytes, 0, sizes[0] % 999 + 1][rng.integers(4)]
    elif kind == 2:
        place = data_at + int(rng.integers(0, header.data_bytes))
        content[place : place + 4] = struct.pack("<I", int(rng.integers(0, 2**32)))
    else:
        del content[len(content) - int(rng.integers(0, 60)) :]
    struct.pack_into(f"<QQ{len(sizes)}I", content, at, offset, digest, *sizes)
    record = content[data_at + offset : data_at + offset + sum(sizes)]
    entry = content[at + 16 : at + header.entry_bytes]
    struct.pack_into("<Q", content, at + 8, record_hash(bytes(record), row, bytes(entry)))


def damaged(encoded: bytes, rng: np.random.Generator) -> list[np.ndarray]:
    whole = np.frombuffer(encoded, np.uint8)
    found = [whole.copy(), whole[:0].copy(), rng.integers(0, 256, 200, np.uint8)]
    for _ in range(12):
        cut = whole[: rng.integers(0, whole.size + 1)].copy()
        if cut.size:
            cut[rng.integers(0, cut.size, 3)] = rng.integers(0, 256, 3)
        found.append(cut)
    # Few distinct bytes make long matches, long lengths and short distances.
    found.append(rng.choice(np.array([0, 1, 15, 31, 240, 255], np.uint8), 120))
    return found


def main() -> None:
    path = Path(sys.argv[1])
    best = LEVELS.index(Kernels(path).level)
    rng = np.random.default_rng(0)
    calls = 0
    for level in LEVELS[: best + 1]:
        for _ in range(8):
            calls += exercise(Kernels(path, level), rng)
            calls += exercise_rollouts(Kernels(path, level), rng)
        with tempfile.TemporaryDirectory() as folder:
            calls += exercise_frames(Kernels(path, level), rng, Path(folder))
    sys.stdout.write(f"{calls}\n")


if __name__ == "__main__":
    main()
