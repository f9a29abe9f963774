"""Where rollouts lie in a store.

    rollouts/catalog.sqlite              the catalogue, rebuilt from the files if it is lost
    rollouts/streams/<stream>/<sequence, 19 digits>+<producer>+<iteration>+<policy version>.rollout
    rollouts/streams/<stream>/stream.json    its settings, and how far sequences may have gone
    rollouts/staging/<push id>.part      a push under way
    rollouts/staging/publishing          what was renamed last, or was about to be

The name of a rollout's file says all that is not in the file, so one rename publishes both. A name
that comes from outside becomes part of a path only after it was checked; none contains a ``+``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.checkpoints import check_name, is_name
from penstock.disk import sync_directory
from penstock.errors import InvalidInput
from penstock.streams import RolloutInfo, StreamSettings
from penstock_checkpointer.durable import make_directories, make_directory, write_durably

__all__ = ["FileName", "RolloutLayout", "StreamNote", "check_push_id"]

_CONTENT, _PART, _NOTE = ".rollout", ".part", "stream.json"
_FILE = re.compile(r"(\d{19})\+([A-Za-z0-9._-]{1,128})\+(\d{1,19})\+(\d{1,19})\.rollout")
_PUSH_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of a rollout's file says."""

    sequence: int
    producer: str
    iteration: int
    policy_version: int

    @classmethod
    def of(cls, info: RolloutInfo) -> FileName:
        """The name of a rollout."""
        return cls(info.sequence, info.producer, info.iteration, info.policy_version)

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """What a name says; None if the store gives no such names."""
        match = _FILE.fullmatch(name)
        if match is None or not is_name(match[2]):
            return None
        found = cls(int(match[1]), match[2], int(match[3]), int(match[4]))
        return found if str(found) == name else None

    def __str__(self) -> str:
        ending = f"+{self.iteration}+{self.policy_version}{_CONTENT}"
        return f"{self.sequence:019d}+{self.producer}{ending}"


@dataclass(frozen=True, slots=True)
class StreamNote:
    """What outlives the catalogue.

    Attributes:
        settings: Of the stream.
        sequences_below: No sequence from here on was ever given.
    """

    settings: StreamSettings
    sequences_below: int

    def encode(self) -> bytes:
        """As it is written."""
        return json.dumps(
            {**asdict(self.settings), "sequences_below": self.sequences_below}, indent=1
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> StreamNote | None:
        """The note, or None if the bytes are none."""
        try:
            document: dict[str, Any] = json.loads(data)
            below = int(document.pop("sequences_below"))
            return cls(StreamSettings(**document), below)
        except (ValueError, KeyError, TypeError, AttributeError, InvalidInput):
            return None


def check_push_id(push_id: str) -> str:
    """Return ``push_id`` if it can be one.

    Raises:
        InvalidInput: It is not 32 hexadecimal digits.
    """
    if _PUSH_ID.fullmatch(push_id) is None:
        raise InvalidInput(
            f"push_id {push_id!r:.80} is none: give 32 hexadecimal digits in lower case",
            field="push_id",
        )
    return push_id


class RolloutLayout:
    """Paths of one store; creating it creates the directories.

    Args:
        root: Of the store.

    Raises:
        OSError: The directories cannot be created.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "rollouts"
        self._streams, self._staging = self.root / "streams", self.root / "staging"
        make_directories(self.root)
        make_directory(self._streams)
        make_directory(self._staging)
        self.catalog = self.root / "catalog.sqlite"
        self._publishing = self._staging / "publishing"

    def stream(self, stream: str) -> Path:
        """Directory of a stream."""
        return self._streams / check_name(stream, "stream")

    def content(self, info: RolloutInfo) -> Path:
        """File of a rollout."""
        return self.stream(info.stream) / str(FileName.of(info))

    def part(self, push_id: str) -> Path:
        """Part file of a push."""
        return self._staging / f"{check_push_id(push_id)}{_PART}"

    def parts(self) -> Iterator[tuple[str, Path]]:
        """Push id and path of all part files."""
        for path in sorted(self._staging.glob(f"*{_PART}")):
            if _PUSH_ID.fullmatch(path.stem):
                yield path.stem, path

    def streams(self) -> list[str]:
        """Names of all streams that have a directory."""
        return [p.name for p in sorted(self._streams.iterdir()) if p.is_dir() and is_name(p.name)]

    def files(self, stream: str) -> dict[int, FileName]:
        """All rollouts of a stream that stand there, by sequence."""
        if not self.stream(stream).is_dir():
            return {}
        names = (FileName.parse(path.name) for path in self.stream(stream).iterdir())
        return {name.sequence: name for name in names if name is not None}

    def stands(self, stream: str, name: FileName) -> bool:
        """Whether a rollout's file is there."""
        return (self.stream(stream) / str(name)).exists()

    def foreign(self) -> Iterator[Path]:
        """What somebody else put among the streams: it is left alone."""
        for path in sorted(self._streams.iterdir()):
            if not path.is_dir() or not is_name(path.name):
                yield path
                continue
            for file in sorted(path.iterdir()):
                if file.name not in (_NOTE, f".{_NOTE}.part") and not FileName.parse(file.name):
                    yield file

    def note(self, stream: str) -> StreamNote | None:
        """The note of a stream; None without one."""
        try:
            return StreamNote.decode((self.stream(stream) / _NOTE).read_bytes())
        except FileNotFoundError:
            return None

    def make_stream(self, stream: str) -> None:
        """Create the directory of a stream."""
        make_directory(self.stream(stream))

    def say_publishing(self, info: RolloutInfo) -> None:
        """Note which file is going to stand in its stream, for who comes after a death.

        It need not be on disk: after a loss of power all streams are looked through anyway.
        """
        document = {"stream": info.stream, "file": str(FileName.of(info))}
        self._publishing.write_text(json.dumps(document))

    def publishing(self) -> tuple[str, FileName] | None:
        """What ``say_publishing`` said last; None if it said nothing.

        Raises:
            ValueError: It was cut off in between.
        """
        try:
            document = json.loads(self._publishing.read_bytes())
        except FileNotFoundError:
            return None
        file = FileName.parse(document["file"])
        if file is None or not is_name(document["stream"]):
            raise ValueError(document)
        return document["stream"], file

    def forget_publishing(self) -> None:
        """All streams were looked through."""
        self._publishing.unlink(missing_ok=True)

    def write_note(self, stream: str, note: StreamNote) -> None:
        """Replace the note of a stream, durably; creates the directory."""
        self.make_stream(stream)
        write_durably(self.stream(stream) / _NOTE, note.encode())
        sync_directory(self.stream(stream))
