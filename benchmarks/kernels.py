"""Microseconds per frame of the kernels, beside OpenCV, LZ4 and a plain copy in the same run.

    python benchmarks/kernels.py [--frames 32] [--rounds 15]

Frames are camera-like (sensor noise) and rendered, 256 x 256 resized to 224 x 224; see
``recordings.py``. One thread. A figure is the median of the rounds, GB/s are bytes of the frame
before encoding. Every result is compared with the one of the plain code before it is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import cv2
import lz4.block
import numpy as np
from numpy.typing import NDArray
from recordings import frames

from penstock import bitplanes, native
from penstock.codecs import IMAGE_CODECS, choose_codec, encode_images
from penstock.resize import column_taps, resize_images, row_taps

SIDE, OUT_SIDE = 256, 224


class Table:
    """Times calls that each handle all frames, and prints a line for each."""

    def __init__(self, frame_count: int, rounds: int) -> None:
        self.frame_count = frame_count
        self.rounds = rounds
        print(f"{'':34}{'us/frame':>10}{'GB/s':>8}{'ratio':>8}")

    def line(
        self, name: str, frame_bytes: int, call: Callable[[], object], ratio: str = ""
    ) -> None:
        """Time ``call`` and print it."""
        call()
        times_s: list[float] = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            call()
            times_s.append(time.perf_counter() - start)
        each_s = statistics.median(times_s) / self.frame_count
        print(f"{name:34}{each_s * 1e6:10.1f}{frame_bytes / each_s / 1e9:8.1f}{ratio:>8}")


def levels() -> list[native.Kernels]:
    """The native library at every level that this CPU has."""
    found: list[native.Kernels] = []
    if native.available():
        best = native.LEVELS.index(native.Kernels().level)
        found = [native.Kernels(level=level) for level in native.LEVELS[: best + 1]]
    return found


def resize_by_opencv(
    image: NDArray[np.uint8], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """What ``resize_images`` must give."""
    return cv2.resize(image, (OUT_SIDE, OUT_SIDE), dst=out, interpolation=cv2.INTER_LINEAR)


def time_resize(table: Table, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resizing; returns the resized frames."""
    out = np.zeros((len(images), OUT_SIDE, OUT_SIDE, 3), np.uint8)
    frame_bytes = out[0].nbytes
    resize_images(images, out)
    expected = out.copy()
    if not all(map(np.array_equal, expected, map(resize_by_opencv, images))):
        raise SystemExit(f"resizing gives other bytes than OpenCV {cv2.__version__}")
    print(f"\nresize {SIDE} to {OUT_SIDE}, the bytes of OpenCV {cv2.__version__}")
    rows, columns = row_taps(SIDE, OUT_SIDE), column_taps(SIDE, OUT_SIDE)
    for kernels in levels():
        out[:] = 0
        table.line(
            f"  resize, {kernels.level}",
            frame_bytes,
            lambda kernels=kernels: kernels.resize(images, out, rows, columns),
        )
        if not np.array_equal(out, expected):
            raise SystemExit(f"resize at level {kernels.level} gives other bytes")
    table.line(
        "  cv2.resize INTER_LINEAR",
        frame_bytes,
        lambda: [
            resize_by_opencv(image, target) for image, target in zip(images, out, strict=True)
        ],
    )
    return expected


def time_codecs(table: Table, kind: str, images: NDArray[np.uint8]) -> None:
    """Encoding and decoding of ``(n, H, W, 3)`` frames."""
    count, frame_bytes = len(images), images[0].nbytes
    rows = images.reshape(count, OUT_SIDE, -1)
    out = np.zeros_like(rows)
    print(f"\n{kind} frames; chosen codec: {choose_codec(images, IMAGE_CODECS)}")
    table.line("  copy (memcpy)", frame_bytes, lambda: np.copyto(out, rows))
    planes = np.empty(count * bitplanes.max_encoded_bytes(frame_bytes), np.uint8)
    sizes = np.empty(count, np.uint32)
    table.line(
        "  encode lz4 (python-lz4)",
        frame_bytes,
        lambda: [lz4.block.compress(row, store_size=False) for row in rows],
    )
    blocks = [lz4.block.compress(row, store_size=False) for row in rows]
    table.line(
        "  decode lz4 (python-lz4)",
        frame_bytes,
        lambda: [lz4.block.decompress(block, uncompressed_size=frame_bytes) for block in blocks],
    )
    for kernels in levels():
        table.line(
            f"  encode bitplanes, {kernels.level}",
            frame_bytes,
            lambda kernels=kernels: kernels.encode_bitplanes(rows, planes, sizes),
        )
        for codec in IMAGE_CODECS[1:]:
            encoded, encoded_sizes = encode_images(codec, images)
            data = np.frombuffer(encoded, np.uint8)
            out[:] = 0
            table.line(
                f"  decode {codec}, {kernels.level}",
                frame_bytes,
                lambda kernels=kernels, codec=codec, data=data, sizes=encoded_sizes: (
                    kernels.decode_images(IMAGE_CODECS.index(codec), data, sizes, out)
                ),
                f"{images.nbytes / len(encoded):.2f}",
            )
            if not np.array_equal(out, rows):
                raise SystemExit(f"{codec} at level {kernels.level} gives other bytes")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"native kernels: {native.describe()}")
    table = Table(asked.frames, asked.rounds)
    camera = time_resize(table, frames("camera", asked.frames, seed=1, side=SIDE))
    time_codecs(table, "camera", camera)
    rendered = np.empty_like(camera)
    resize_images(frames("rendered", asked.frames, seed=1, side=SIDE), rendered)
    time_codecs(table, "rendered", rendered)
    noise = np.random.default_rng(1).integers(0, 256, camera.shape, np.uint8)
    time_codecs(table, "pure noise", noise)


if __name__ == "__main__":
    main()
