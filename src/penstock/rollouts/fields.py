"""What each field of a stored rollout takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.rollout_file import Field, Index

__all__ = ["StoredField", "fields_of"]


@dataclass(frozen=True, slots=True)
class StoredField:
    """A field and its bytes.

    Attributes:
        field: As the index describes it.
        raw_bytes: Of its tensor.
        stored_bytes: Of its segments.
    """

    field: Field
    raw_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float | None:
        """How many times smaller it is stored; None where nothing is."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else None


def fields_of(index: Index) -> list[StoredField]:
    """The fields of a rollout file in order."""
    stored = np.bincount(index.segments.field, index.sizes, minlength=len(index.fields))
    rows = index.envs * index.steps
    return [
        StoredField(field, rows * field.raw_row_size_bytes, int(size_bytes))
        for field, size_bytes in zip(index.fields, stored, strict=True)
    ]
