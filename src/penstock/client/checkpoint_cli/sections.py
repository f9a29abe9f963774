"""How much each section of a stored state takes, raw and stored, and how it is encoded."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO

from penstock.client.checkpoint_diff.leaves import LongBytes, Tensor, leaves_of
from penstock.container import Reader
from penstock.container.codecs import Codec, Filter
from penstock.container.index import Chunk, StoredStorage
from penstock.container.planes import HEAD_BYTES, Coder, coders_of
from penstock.container.tensors import section_of

__all__ = ["Section", "sections_of"]

_CODERS = {
    Coder.ZSTD: "zstd",
    Coder.LZ4: "LZ4",
    Coder.BITS_ZSTD: "bit planes, zstd",
    Coder.PACKED: "packed",
}


@dataclass(slots=True)
class Section:
    """A part of a state whose tensors resemble one another.

    Attributes:
        raw_bytes: Of its tensors and long byte strings, once decoded.
        stored_bytes: Of them in the file.
        encodings: Raw bytes by how they are stored, such as ``byte planes, zstd``.
    """

    raw_bytes: int = 0
    stored_bytes: int = 0
    encodings: Counter[str] = field(default_factory=Counter[str])


def sections_of(reader: Reader, file: BinaryIO) -> dict[str, Section]:
    """The sections of an open checkpoint by name, in the state's order.

    A section is the first key of a path; for the moments of optimizers first and last
    (``optimizer.exp_avg``).

    Args:
        reader: Of the file; its base is not needed.
        file: The same file: the head of a chunk tells how its planes are coded.

    Raises:
        Corrupt: The tree is malformed.
    """
    names: dict[int, str] = {}
    for path, leaf in leaves_of(reader.index).items():
        if isinstance(leaf, Tensor):
            names.setdefault(reader.index.entries[leaf.number].storage, section_of(path))
        elif isinstance(leaf, LongBytes):
            names.setdefault(leaf.storage, section_of(path))
    sections: dict[str, Section] = {}
    for number, name in names.items():
        section = sections.setdefault(name, Section())
        storage = reader.index.storages[number]
        section.raw_bytes += storage.raw_size_bytes
        section.stored_bytes += sum(chunk.stored_bytes for chunk in storage.chunks)
        if storage.same_as is not None:
            section.encodings["stored once for several"] += storage.raw_size_bytes
        planes = _planes(storage, file)
        for chunk in storage.chunks:
            section.encodings[_encoding(chunk, planes)] += chunk.raw_bytes
    return sections


def _encoding(chunk: Chunk, planes: str) -> str:
    if chunk.codec == Codec.BASE:
        return "equal to base"
    if chunk.codec == Codec.NONE:
        return "as it is"
    names = {
        Filter.NONE: "",
        Filter.SHUFFLE: "byte shuffle, ",
        Filter.BITSHUFFLE: "bit shuffle, ",
        Filter.DELTA: "difference to base, ",
        Filter.BF16: "rounded to bfloat16, ",
    }
    codecs = {Codec.LZ4: "LZ4", Codec.BLOSC2: "Blosc2"}
    return names[Filter(chunk.filter)] + codecs.get(Codec(chunk.codec), planes)


def _planes(storage: StoredStorage, file: BinaryIO) -> str:
    """How the planes of the first chunk that has some are coded."""
    offset = storage.offset_bytes
    for chunk in storage.chunks:
        if chunk.codec == Codec.PLANES:
            file.seek(offset, os.SEEK_SET)
            coders = coders_of(file.read(min(HEAD_BYTES, chunk.stored_bytes)))
            used = [name for coder, name in _CODERS.items() if coder in coders]
            return ", ".join(["byte planes"] * (len(coders) > 1) + (used or ["as they are"]))
        offset += chunk.stored_bytes
    return ""
