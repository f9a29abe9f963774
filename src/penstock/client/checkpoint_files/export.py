"""Writing states for other tools; each file appears whole and synced, or not at all."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import lz4.frame

from penstock.container.torch_bridge import require_torch
from penstock.disk import full_disk_named, sync_directory
from penstock.errors import Unsupported

__all__ = ["is_torch_name", "write_safetensors", "write_torch", "write_whole"]

_TORCH_SUFFIXES = (".pt", ".pth")
_LZ4_SUFFIX = ".lz4"
_PIECE_BYTES = 1 << 20


def is_torch_name(path: Path) -> bool:
    """Whether ``write_torch`` writes files of this name: ``.pt``, ``.pth``, or either in LZ4."""
    return path.name.removesuffix(_LZ4_SUFFIX).endswith(_TORCH_SUFFIXES)


def write_torch(state: Any, path: Path) -> None:
    """Write a state as ``torch.save`` does; inside an LZ4 frame if the name ends in ``.lz4``.

    Beside the state itself this takes a few MiB, and a copy of the byte strings in it.

    Args:
        state: What ``torch.save`` takes.
        path: ``.pt`` or ``.pt.lz4``; the file is synced when this returns.

    Raises:
        Unsupported: Torch is not installed.
        LimitExceeded: The disk is full.
    """
    torch = require_torch(f"writing {path}")
    compressed = path.name.endswith(_LZ4_SUFFIX)

    def save(part: Path) -> None:
        # Through a file of our own: given a path, torch hides what the system says.
        with part.open("wb") as file:
            if not compressed:
                torch.save(state, file)
                return
            with lz4.frame.open(file, "wb", content_checksum=True) as frame:
                torch.save(state, _InPieces(cast("BinaryIO", frame)))

    write_whole(path, save)


def write_safetensors(state: Any, path: Path) -> list[str]:
    """Write the tensors of a state, named by their keys joined by dots.

    Returns:
        Paths of what is no tensor and was left out.

    Raises:
        Unsupported: Torch or safetensors is not installed, or two tensors get the same name.
        LimitExceeded: The disk is full.
    """
    torch = require_torch(f"writing {path}")
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise Unsupported(f"writing {path} needs: pip install safetensors") from error
    tensors: dict[str, Any] = {}
    left_out: list[str] = []
    for name, value in _leaves(state, ""):
        if not isinstance(value, torch.Tensor):
            left_out.append(name)
            continue
        if name in tensors:
            raise Unsupported(f"{path}: two tensors are called {name!r}: write .pt instead")
        # The format knows no shared memory: each tensor becomes its own.
        tensors[name] = value.detach().contiguous().clone()
    write_whole(path, lambda part: safetensors.save_file(tensors, part))
    return left_out


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let a file appear whole and synced, with its name in the directory, or not at all.

    Args:
        path: Where it appears; what was there is replaced.
        write: Writes the content to the path that it is given.

    Raises:
        LimitExceeded: The disk is full.
        OSError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with full_disk_named(f"writing {path}"):
            write(part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


class _InPieces:
    """What ``torch.save`` writes to: a tensor comes in one piece, as large as it is.

    Given whole to the compressor, it would be held once more, compressed.
    """

    def __init__(self, frame: BinaryIO) -> None:
        self._frame = frame

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE_BYTES):
            self._frame.write(view[start : start + _PIECE_BYTES])
        return len(view)

    def flush(self) -> None:
        """The frame is flushed when it ends."""


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    children: list[tuple[Any, Any]] | None = None
    if isinstance(node, dict):
        children = list(cast("dict[Any, Any]", node).items())
    elif type(node) in (list, tuple):
        children = list(enumerate(cast("list[Any]", node)))
    if children is None:
        yield prefix, node
        return
    for key, child in children:
        yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
