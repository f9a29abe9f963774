"""What each profile leaves of a trained state, and how fast one thread encodes it."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import lz4.block

from penstock.container import CHUNK_SIZE_BYTES, Base, Profile, Written, flatten, write

__all__ = ["Encoded", "base_of", "encode", "lz4_alone"]


@dataclass
class Encoded:
    """What was written, and how fast.

    Attributes:
        written: By the last turn; all are the same.
        wall_s: Of each turn.
        cpu_s: Of each turn, this thread.
    """

    written: Written | None = None
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def _sizes(self) -> tuple[int, int]:
        if self.written is None:
            raise RuntimeError("nothing was written")
        return self.written.raw_size_bytes, self.written.digest.size_bytes

    @property
    def saved(self) -> float:
        """Share of the raw bytes that was saved; the index counts as stored."""
        raw, stored = self._sizes()
        return 1 - stored / raw

    @property
    def mb_s(self) -> float:
        """Raw megabytes a second, median of the turns."""
        return self._sizes()[0] / 1e6 / median(self.wall_s)

    @property
    def cpu_mb_s(self) -> float:
        """Raw megabytes a second of CPU: what other programs do does not count."""
        return self._sizes()[0] / 1e6 / median(self.cpu_s)

    @property
    def sections(self) -> dict[str, dict[str, float]]:
        """Raw megabytes and saved share of each section."""
        sections: Mapping[str, tuple[int, int]] = self.written.sections if self.written else {}
        return {
            name: {"raw_mb": raw / 1e6, "saved": 1 - stored / raw}
            for name, (raw, stored) in sections.items()
            if raw
        }


def encode(
    state: Any, profiles: Sequence[Profile], *, turns: int, base: Base | None = None
) -> dict[Profile, Encoded]:
    """Write a state with each profile in turn to where nothing is kept; the first turn warms up.

    The state is taken apart before, as the process that encodes snapshots gets it.
    """
    found: dict[Profile, Encoded] = {profile: Encoded() for profile in profiles}
    flat = flatten(state)
    with Path(os.devnull).open("wb", buffering=0) as nowhere:
        for turn in range(-1, turns):
            for profile, encoded in found.items():
                gc.collect()  # else the garbage of one turn is another's
                cpu_s, wall_s = time.thread_time(), time.perf_counter()
                encoded.written = write(flat, nowhere, compress=profile, base=base)
                cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
                if turn >= 0:
                    encoded.cpu_s.append(cpu_s)
                    encoded.wall_s.append(wall_s)
    return found


@contextmanager
def base_of(state: Any, step: int) -> Iterator[Base]:
    """A state as it is now, as the base of later ones."""
    with tempfile.TemporaryFile(prefix="penstock-bench-") as file:
        written = write(state, file, compress="delta")
        yield Base(written.ref(step), file, written.hashes)


def lz4_alone(state: Any) -> float:
    """Share of the bytes that LZ4 saves without a filter, chunk by chunk."""
    raw_bytes = stored_bytes = 0
    for storage in flatten(state).storages:
        raw = storage.data.data
        for start in range(0, len(raw), CHUNK_SIZE_BYTES):
            piece = raw[start : start + CHUNK_SIZE_BYTES]
            raw_bytes += len(piece)
            stored_bytes += min(len(piece), len(lz4.block.compress(piece, store_size=False)))
    return 1 - stored_bytes / raw_bytes
