"""Fields of the following step: ``next/X`` beside ``X``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_bases"]

_PREFIX = "next_"
_NEXT = "next"
_PROBED_ENVS = 32
_PROBED_ROWS = 4096
_MOST_DIFFERING = 0.5


def find_bases(leaves: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Which fields can be rebuilt from the following step of another, and from which.

    Args:
        leaves: Arrays ``[env, time, ...]`` as they will be stored.

    Returns:
        Name of a field to that of its base, where some environments, evenly chosen, show that most
        rows are the same.
    """
    found: dict[str, str] = {}
    for name, array in leaves.items():
        for base in _candidates(name):
            if base in leaves and base not in found and _follows(array, leaves[base]):
                found[name] = base
                break
    # What is rebuilt from a field that is itself rebuilt would need a third one.
    return {name: base for name, base in found.items() if base not in found}


def _candidates(name: str) -> list[str]:
    parts = name.split("/")
    found: list[str] = []
    for place, part in enumerate(parts):
        if part == _NEXT and len(parts) > 1:
            found.append("/".join(parts[:place] + parts[place + 1 :]))
        elif part.startswith(_PREFIX) and part != _PREFIX:
            found.append(
                "/".join([*parts[:place], part.removeprefix(_PREFIX), *parts[place + 1 :]])
            )
    return found


def _follows(array: NDArray[Any], base: NDArray[Any]) -> bool:
    if array.shape != base.shape or array.dtype != base.dtype or not array[0, 0].size:
        return False
    envs, steps = array.shape[:2]
    if steps == 1:
        return False
    chosen = np.linspace(0, envs - 1, min(envs, _PROBED_ENVS)).astype(int)
    most = max(1, min(steps - 1, _PROBED_ROWS // len(chosen)))
    bits = np.dtype(f"u{array.itemsize}")
    mine = np.ascontiguousarray(array[chosen, :most]).view(bits)
    other = np.ascontiguousarray(base[chosen, 1 : most + 1]).view(bits)
    rows = len(chosen) * most
    differs = (mine != other).reshape(rows, -1).any(1)
    return bool(differs.mean() <= _MOST_DIFFERING)
