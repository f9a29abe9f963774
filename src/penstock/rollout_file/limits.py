"""What a rollout may demand of its reader's memory, checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one rollout, for writing and for reading alike.

    Attributes:
        raw_size_bytes: All tensors together once decoded; a small file may hold large zeros.
        index_size_bytes: The index, which is parsed in memory.
        envs: Environments.
        steps: Steps of each.
        fields: Tensors.
        axes: Of a tensor, after environment and step.
        name_bytes: Of the path of a field.
        row_size_bytes: One step of one environment of one field.
    """

    raw_size_bytes: int = 16 << 30
    index_size_bytes: int = 64 << 20
    envs: int = 1 << 24
    steps: int = 1 << 24
    fields: int = 4096
    axes: int = 30
    name_bytes: int = 1024
    row_size_bytes: int = 256 << 20
