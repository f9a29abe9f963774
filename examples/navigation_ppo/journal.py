"""A file of JSON lines that outlives its writer, however that one ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from navigation_ppo.collecting import Rollout
from penstock.rollout_file import flatten

__all__ = ["Journal", "checksum"]


class Journal:
    """One line for each thing that was done.

    Args:
        path: Of the file; created, with its folder, if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        # One write to a file opened for appending: a line is there or not, but for a crash of the
        # machine.
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(record).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """All lines; one that was broken off is left out."""
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def end_with(self, last: Mapping[str, Any] | None) -> None:
        """Make this the last line: what came after it is removed, and if it is missing it is added.

        Args:
            last: Lines are in the order of its ``sequence``; None empties the file.
        """
        end = 0 if last is None else int(last["sequence"])
        kept = [record for record in self.read() if record["sequence"] < end]
        if last is not None:
            kept.append(dict(last))
        mended = self._path.with_suffix(".mended")
        mended.write_text("".join(f"{json.dumps(record)}\n" for record in kept), "utf-8")
        mended.replace(self._path)


def checksum(rollout: Rollout) -> str:
    """Hash of all names, types, shapes and values of a rollout: the same at both ends of a wire."""
    state = xxhash.xxh3_128()
    for path, leaf in sorted(flatten(rollout).items()):
        state.update(f"{path} {leaf.dtype.str} {leaf.shape}\n".encode())
        state.update(np.ascontiguousarray(leaf).data)
    return state.hexdigest()
