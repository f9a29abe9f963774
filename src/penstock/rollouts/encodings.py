"""How a rollout is to be encoded, as users say it."""

from __future__ import annotations

from typing import Literal

from penstock.errors import InvalidInput
from penstock.rollout_file import Encoding

__all__ = ["AUTO", "EncodingChoice", "encoding_of"]

AUTO = "auto"
EncodingChoice = Encoding | Literal["lz4", "zstd", "raw", "auto"]
"""An encoding, the name of a codec, or ``auto``: what is fastest to where the rollouts go."""

_HIGHEST_ZSTD = 19


def encoding_of(
    encoding: EncodingChoice | None = None, compression_level: int | None = None
) -> Encoding | None:
    """The encoding that is asked for; None where it is to be measured (``auto``).

    Args:
        encoding: What to do; None means LZ4, or what the level says.
        compression_level: As other tools number it: None or 0 is LZ4, a negative one LZ4 that is
            faster and larger, 1 to 19 a level of zstd.

    Raises:
        InvalidInput: Both are given, or one is not valid.
    """
    if encoding is not None and compression_level is not None:
        raise InvalidInput(
            f"encoding={encoding!r} and compression_level={compression_level}: give one of them",
            field="compression_level",
        )
    if isinstance(encoding, Encoding):
        return encoding
    if encoding is not None:
        if encoding == AUTO:
            return None
        if encoding not in ("lz4", "zstd", "raw"):
            raise InvalidInput(
                f"encoding={encoding!r}: choose lz4, zstd, raw or auto", field="encoding"
            )
        return Encoding(codec=encoding)
    level = compression_level or 0
    if level > _HIGHEST_ZSTD:
        raise InvalidInput(
            f"compression_level={level}: at most {_HIGHEST_ZSTD}", field="compression_level"
        )
    if level > 0:
        return Encoding(codec="zstd", level=level)
    return Encoding(level=-level or None)
