"""Feeds damaged and random input to every kernel at every level; run under sanitizers.

    python hostile_input.py LIBRARY

Prints how many calls were made. A sanitizer ends the process where a kernel reads or writes
outside of its arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lz4.block
import numpy as np

from penstock import bitplanes
from penstock.codecs import IMAGE_CODECS
from penstock.native import LEVELS, Kernels
from penstock.resize import taps

SHAPES = [(1, 1), (1, 3), (2, 63), (3, 64), (2, 65), (5, 100), (40, 3), (9, 192), (4, 672)]
SIDES = [(1, 1, 5, 5), (7, 9, 3, 50), (32, 33, 28, 29), (50, 40, 7, 3), (8, 100, 8, 88)]


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
    for height, width, out_height, out_width in SIDES:
        image = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        out = np.empty((2, out_height, out_width, 3), np.uint8)
        kernels.resize(image, out, taps(height, out_height), taps(width, out_width))
        calls += 1
    return calls


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
    sys.stdout.write(f"{calls}\n")


if __name__ == "__main__":
    main()
