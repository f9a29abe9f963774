"""Checkpoints as objects of an S3-compatible store: content first, the note that makes it one last.

    <prefix>/runs/<run>/<step, 19 digits>-<xxh3-128>.pstk   the content, put whole
    <prefix>/runs/<run>/<step, 19 digits>.json              the note: what has one is a checkpoint

Content carries its hash in its name and is never overwritten. So content that has no note yet, or
lost a race, is in nobody's way; the next start removes it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import structlog

from penstock.checkpoints import CheckpointInfo, is_name
from penstock.chunks import Digest
from penstock.errors import Corrupt, InvalidInput, NotFound, Unsupported
from penstock.failpoints import failpoint
from penstock_checkpointer.layout import Note
from penstock_checkpointer.object_faults import named_faults

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from _typeshed import ReadableBuffer, WriteableBuffer
    from obstore.store import S3Store

__all__ = ["ObjectShelf"]

log = structlog.get_logger(__name__)

_PART_BYTES = 8 << 20
_MOST_PARTS = 10_000
_PARTS_IN_FLIGHT = 4
_READ_AHEAD_BYTES = 4 << 20
_KEY = re.compile(r"runs/([^/]+)/(\d{19})(?:-([0-9a-f]{32})\.pstk|\.json)")


class ObjectShelf:
    """One prefix of a bucket, which one store alone may use; see ``Shelf``.

    Endpoint, region and credentials come from the environment, as S3 clients are used to:
    ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and so
    on. Nothing is asked of the store before the first call.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.
        retry_s: For how long a request that fails is repeated. The catalogue is locked while a
            note is put, so this stays below the minute that others wait for it.

    Raises:
        InvalidInput: The URL is not like that.
        Unsupported: ``obstore`` is not installed.
    """

    def __init__(self, url: str, *, retry_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        if not re.fullmatch(r"s3://[^/?#]+(/[^?#]*)?", self.url):
            raise InvalidInput(
                f"object store {url!r} is not s3://bucket or s3://bucket/prefix",
                field="object_store",
            )
        self._store = _connect(self.url, retry_s)

    def prepare(self, part: Path, info: CheckpointInfo) -> None:
        """Put the content as one object, in parts. The same that is there already may be damaged.

        Raises:
            FileNotFoundError: The part is gone.
        """
        part_size = max(_PART_BYTES, -(-part.stat().st_size // _MOST_PARTS))
        with self._faults(f"putting {info.run}/{info.step}"):
            self._store.put(
                _content_key(info), part, chunk_size=part_size, max_concurrency=_PARTS_IN_FLIGHT
            )
        failpoint("server.object.content_put")

    def publish(self, part: Path, note: Note) -> None:
        """Put the note, which makes the content a checkpoint; then remove the part."""
        self.write_note(note)
        failpoint("server.object.note_put")
        part.unlink(missing_ok=True)
        failpoint("server.object.part_removed")

    def write_note(self, note: Note) -> None:
        """Put the note of a checkpoint in place of what is there."""
        info = note.info
        with self._faults(f"putting the note of {info.run}/{info.step}"):
            self._store.put(_note_key(info.run, info.step), note.encode(), use_multipart=False)

    def size_bytes(self, info: CheckpointInfo) -> int:
        """Size of the object.

        Raises:
            FileNotFoundError: It is gone.
        """
        with self._faults(f"looking for {info.run}/{info.step}"):
            return self._store.head(_content_key(info))["size"]

    def open(self, info: CheckpointInfo) -> BinaryIO:
        """Open the content; a few MiB ahead are read at a time, by ranges.

        Raises:
            FileNotFoundError: It is gone.
        """
        key, size = _content_key(info), self.size_bytes(info)

        def read(start: int, end: int) -> ReadableBuffer:
            try:
                with self._faults(f"reading {info.run}/{info.step}"):
                    return self._store.get_range(key, start=start, end=end)
            except FileNotFoundError:
                raise NotFound(
                    f"{info.run}/{info.step} was deleted while it was read: load another step"
                ) from None

        raw = _RangeReader(f"{self.url}/{key}", size, read)
        return cast(BinaryIO, io.BufferedReader(raw, _READ_AHEAD_BYTES))

    def remove(self, info: CheckpointInfo) -> None:
        """Remove the note, then the content: what has no note is no checkpoint."""
        with self._faults(f"removing {info.run}/{info.step}"):
            self._store.delete(_note_key(info.run, info.step))
            failpoint("server.object.note_removed")
            self._store.delete(_content_key(info))
            failpoint("server.object.content_removed")

    def listing(self) -> Mapping[str, set[int]]:
        """Steps of all notes whose content is there, by run."""
        scan = self._scan()
        for run, step in sorted(scan.notes - scan.contents.keys()):
            log.error("note of a checkpoint without its content", run=run, step=step)
        found: dict[str, set[int]] = {}
        for run, step in scan.notes & scan.contents.keys():
            found.setdefault(run, set()).add(step)
        return found

    def recover(self, run: str, step: int) -> Note:
        """The note.

        Raises:
            Corrupt: It is none, or its content is not there as it says.
        """
        key = _note_key(run, step)
        note = self._note(run, step)
        if note is None:
            raise Corrupt(f"{self.url}/{key} is no note of {run}/{step}: save the step again")
        try:
            size = self.size_bytes(note.info)
        except FileNotFoundError:
            size = -1
        if size != note.info.size_bytes:
            raise Corrupt(
                f"{self.url}/{key} speaks of {note.info.digest}, which is not there: save the "
                "step again",
                reason="FILE_GONE",
            )
        return note

    def foreign(self) -> Iterator[str]:
        """Objects below ``runs`` that the store did not make."""
        for key in self._scan().foreign:
            yield f"{self.url}/{key}"

    def sweep(self, under_way: Callable[[str, int, Digest], bool]) -> int:
        """Remove content that no note speaks of and no upload will come back for."""
        scan, removed = self._scan(), 0
        for (run, step), digests in sorted(scan.contents.items()):
            if (run, step) in scan.notes:
                note = self._note(run, step) if len(digests) > 1 else None
                if note is None:
                    continue
                digests.discard(note.info.digest)
            for digest in digests:
                if not under_way(run, step, digest):
                    log.warning("content without a note removed", run=run, step=step)
                    with self._faults(f"removing what was left of {run}/{step}"):
                        self._store.delete(_key(run, step, digest))
                    removed += 1
        return removed

    def _note(self, run: str, step: int) -> Note | None:
        try:
            with self._faults(f"reading the note of {run}/{step}"):
                note = Note.decode(bytes(self._store.get(_note_key(run, step)).bytes()))
        except FileNotFoundError:
            return None
        return note if note is not None and (note.info.run, note.info.step) == (run, step) else None

    def _scan(self) -> _Scan:
        scan = _Scan()
        with self._faults("listing checkpoints"):
            for batch in self._store.list("runs", chunk_size=1000):
                for meta in batch:
                    scan.add(meta["path"], meta["size"])
        return scan

    def _faults(self, doing: str) -> AbstractContextManager[None]:
        return named_faults(self.url, doing)


@dataclass(slots=True)
class _Scan:
    """What a listing found."""

    notes: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    contents: dict[tuple[str, int], set[Digest]] = field(
        default_factory=dict[tuple[str, int], set[Digest]]
    )
    foreign: list[str] = field(default_factory=list[str])

    def add(self, key: str, size_bytes: int) -> None:
        """Tell notes, contents and what is neither apart."""
        match = _KEY.fullmatch(key)
        if match is None or not is_name(match[1]):
            self.foreign.append(key)
        elif match[3]:
            digest = Digest(size_bytes, bytes.fromhex(match[3]))
            self.contents.setdefault((match[1], int(match[2])), set()).add(digest)
        else:
            self.notes.add((match[1], int(match[2])))


class _RangeReader(io.RawIOBase):
    """An object as an unbuffered, seekable file."""

    def __init__(
        self, name: str, size_bytes: int, read: Callable[[int, int], ReadableBuffer]
    ) -> None:
        self.name = name
        self._size_bytes, self._read, self._position = size_bytes, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        out = memoryview(buffer).cast("B")
        end = min(self._position + len(out), self._size_bytes)
        if end <= self._position:
            return 0
        data = memoryview(self._read(self._position, end))
        out[: len(data)] = data
        self._position += len(data)
        return len(data)


def _connect(url: str, retry_s: float) -> S3Store:
    try:
        from obstore.store import S3Store  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"object store {url}: obstore is not installed: pip install 'penstock[s3]'"
        ) from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    with named_faults(url, "opening it"):
        return S3Store.from_url(
            url,
            # Whoever writes http:// into the endpoint has decided.
            client_options={"allow_http": True} if endpoint.startswith("http://") else None,
            retry_config={"retry_timeout": timedelta(seconds=retry_s)},
        )


def _key(run: str, step: int, digest: Digest) -> str:
    return f"runs/{run}/{step:019d}-{digest.xxh3_128.hex()}.pstk"


def _content_key(info: CheckpointInfo) -> str:
    return _key(info.run, info.step, info.digest)


def _note_key(run: str, step: int) -> str:
    return f"runs/{run}/{step:019d}.json"
