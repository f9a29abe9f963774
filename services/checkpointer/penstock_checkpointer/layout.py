"""Where things lie in a store.

    catalog.sqlite                       the catalogue, rebuilt from the files if it is lost
    runs/<run>/<step, 19 digits>.pstk    a checkpoint: verified, synced, whole
    runs/<run>/<step, 19 digits>.json    its note: digest, tags, metrics, pin
    staging/<upload id>.part             an upload under way

A name that comes from outside becomes part of a path only after it was checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.checkpoints import CheckpointInfo, check_run, check_step, is_name
from penstock.chunks import Digest
from penstock_checkpointer.durable import make_directories, make_directory

__all__ = ["Layout", "Note"]

_STEP_DIGITS = 19
_CONTENT, _NOTE, _PART = ".pstk", ".json", ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The JSON file beside a checkpoint.

    Attributes:
        info: The checkpoint as it was committed, and the tags and the pin it has now.
        fencing_token: Of its writer.
    """

    info: CheckpointInfo
    fencing_token: int

    def encode(self) -> bytes:
        """As it is written."""
        info = self.info
        document = {
            "run": info.run,
            "step": info.step,
            "size_bytes": info.digest.size_bytes,
            "xxh3_128": info.digest.xxh3_128.hex(),
            "raw_size_bytes": info.raw_size_bytes,
            "created_unix_ms": info.created_unix_ms,
            "tags": list(info.tags),
            "metrics": dict(info.metrics),
            "fencing_token": self.fencing_token,
            "base_step": info.base_step,
            "pinned": info.pinned,
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Note | None:
        """The note, or None if the bytes are none."""
        try:
            document: dict[str, Any] = json.loads(data)
            base = document.get("base_step")
            info = CheckpointInfo(
                run=check_run(document["run"]),
                step=check_step(int(document["step"])),
                digest=Digest(int(document["size_bytes"]), bytes.fromhex(document["xxh3_128"])),
                raw_size_bytes=int(document["raw_size_bytes"]),
                created_unix_ms=int(document["created_unix_ms"]),
                tags=tuple(str(tag) for tag in document["tags"]),
                metrics={str(k): float(v) for k, v in document["metrics"].items()},
                # Notes of the first version have neither.
                base_step=None if base is None else check_step(int(base)),
                pinned=bool(document.get("pinned", False)),
                # A commit checks all bytes.
                verified_unix_ms=int(document["created_unix_ms"]),
            )
            return cls(info=info, fencing_token=int(document["fencing_token"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


class Layout:
    """Paths of one store; creating it creates the directories.

    Args:
        root: Of the store.

    Raises:
        OSError: The directories cannot be created.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        make_directories(root)
        make_directory(root / "runs")
        make_directory(root / "staging")
        self.catalog = root / "catalog.sqlite"

    def run(self, run: str) -> Path:
        """Directory of a run."""
        return self.root / "runs" / check_run(run)

    def content(self, run: str, step: int) -> Path:
        """File of a checkpoint."""
        return self.run(run) / f"{check_step(step):0{_STEP_DIGITS}d}{_CONTENT}"

    def note(self, run: str, step: int) -> Path:
        """Note beside a checkpoint."""
        return self.content(run, step).with_suffix(_NOTE)

    def part(self, upload_id: str) -> Path:
        """Part file of an upload; ids are those the store made itself."""
        return self.root / "staging" / f"{upload_id}{_PART}"

    def runs(self) -> list[str]:
        """Names of all runs that have a directory."""
        return [p.name for p in self._entries() if p.is_dir() and is_name(p.name)]

    def steps(self, run: str) -> set[int]:
        """Steps of all checkpoint files of a run."""
        return {int(path.stem) for path in self.run(run).iterdir() if _is_step(path, _CONTENT)}

    def strays(self, run: str) -> list[Path]:
        """Notes of a run without a checkpoint, and notes that were never finished."""
        steps = self.steps(run)
        return [
            path
            for path in sorted(self.run(run).iterdir())
            if path.suffix == _PART or (_is_step(path, _NOTE) and int(path.stem) not in steps)
        ]

    def foreign(self) -> Iterator[Path]:
        """What somebody else put among the runs: it is left alone."""
        for path in self._entries():
            if not path.is_dir() or not is_name(path.name):
                yield path
                continue
            for file in sorted(path.iterdir()):
                own = _is_step(file, _CONTENT) or _is_step(file, _NOTE)
                if not own and file.suffix != _PART:
                    yield file

    def _entries(self) -> list[Path]:
        return sorted((self.root / "runs").iterdir())

    def parts(self) -> Iterator[tuple[str, Path]]:
        """Upload id and path of all part files."""
        for path in sorted((self.root / "staging").glob(f"*{_PART}")):
            yield path.stem, path


def _is_step(path: Path, suffix: str) -> bool:
    stem = path.stem
    return path.suffix == suffix and len(stem) == _STEP_DIGITS and stem.isdecimal()
