"""How a rollout is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.errors import InvalidInput

__all__ = ["CODECS", "Codec", "Encoding", "is_below"]

Codec = Literal["raw", "lz4", "zstd"]
CODECS: tuple[Codec, ...] = ("raw", "lz4", "zstd")

_LEVELS = {"raw": (0, 0), "lz4": (1, 65537), "zstd": (-50, 19)}


@dataclass(frozen=True)
class Encoding:
    """How a rollout is encoded.

    Attributes:
        codec: ``lz4`` is the fastest, ``zstd`` makes the smallest files, ``raw`` copies.
        level: Of zstd, or the acceleration of LZ4; None for what was measured to be best.
        half: Fields that are kept as float16, which loses precision: paths, or the beginnings of
            paths for all float32 and float64 below.
        rebuild_next: Keep of ``next/X`` (or ``next_X``) beside ``X`` only the rows that differ from
            the following step of ``X``.
        only: Fields that are compressed, paths or their beginnings; the others stay raw. None for
            all.
    """

    codec: Codec = "lz4"
    level: int | None = None
    half: tuple[str, ...] = ()
    rebuild_next: bool = True
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise InvalidInput(
                f"codec is {self.codec!r}: expected one of {', '.join(CODECS)}", field="codec"
            )
        least, most = _LEVELS[self.codec]
        if self.level is not None and not least <= self.level <= most:
            raise InvalidInput(
                f"level of {self.codec} is {self.level}: expected {least} to {most}", field="level"
            )


def is_below(name: str, path: str) -> bool:
    """Whether the field ``name`` is at ``path`` or below it."""
    return name == path or name.startswith(f"{path}/")
