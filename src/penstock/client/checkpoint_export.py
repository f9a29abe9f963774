"""Writing states for other tools; each file appears whole or not at all."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from penstock.container.torch_bridge import require_torch
from penstock.disk import full_disk_named
from penstock.errors import Unsupported

__all__ = ["write_safetensors", "write_torch"]


def write_torch(state: Any, path: Path) -> None:
    """Write a state as ``torch.save`` does.

    Raises:
        Unsupported: Torch is not installed.
        LimitExceeded: The disk is full.
    """
    torch = require_torch(f"writing {path}")

    def save(part: Path) -> None:
        # Through a file of our own: given a path, torch hides what the system says.
        with part.open("wb") as file:
            torch.save(state, file)

    _write_whole(path, save)


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
    _write_whole(path, lambda part: safetensors.save_file(tensors, part))
    return left_out


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with full_disk_named(f"writing {path}"):
            write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
