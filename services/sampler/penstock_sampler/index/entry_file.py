"""What an index knows of one source file, in a file of its own.

Little endian: a header of 64 bytes, the records of :mod:`penstock_sampler.index.scalars` in blocks,
a JSON document, and the arrays that it names back to back. The header has the hash of document and
arrays, and one of itself; each block of records has its own. So nothing is served that is not what
was written, and opening costs nothing for the records. Nothing is synced: what a power failure
leaves behind is noticed like any other damage, and made again from the source.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.dataset import COLUMNS
from penstock.errors import Corrupt, DataFault
from penstock.moments import Moments
from penstock_sampler.checks.findings import Finding, Level
from penstock_sampler.index.episodes import FileEpisodes
from penstock_sampler.index.scalars import RecordPlace, RecordShape
from penstock_sampler.index.scan import FileScan
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.images import ImageColumn
from penstock_sampler.sources.layout import FileLayout

__all__ = ["HEADER_BYTES", "SourceStamp", "read_entry", "write_entry"]

HEADER_BYTES = 64
_HEADER = struct.Struct("<8sIIQQQQQ")
_MAGIC = b"PSTKIDX\0"
_VERSION = 1
"""Of the format and of the rules that a scan follows: entries of another one are made again."""
_HASH_BYTES = 8
_MOST_DOCUMENT_BYTES = 16 << 20
_EPISODES = {
    "number": "<i8",
    "first_row": "<i8",
    "length": "<i4",
    "outcome": "|u1",
    "dropped": "<i8",
}
_MOMENTS = ("mean", "squares", "min", "max")


@dataclass(frozen=True, slots=True)
class SourceStamp:
    """A source file as the system describes it: any write to it changes at least ``changed_ns``.

    Attributes:
        path: Absolute.
        size_bytes: Its size.
        modified_ns: Time of the last change of content, which a copy may keep.
        changed_ns: Time of the last change of anything, which nobody sets.
        options: How it is read, see :func:`penstock_sampler.index.entry_store.options_key`.
    """

    path: Path
    size_bytes: int
    modified_ns: int
    changed_ns: int
    options: str

    @classmethod
    def of(cls, path: Path, options: str) -> SourceStamp:
        """The file as it is now.

        Raises:
            DataFault: It cannot be found.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise DataFault(
                f"{path}: cannot be found ({error.strerror}): check the path",
                reason="MISSING",
                metadata={"file": str(path)},
            ) from error
        return cls(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, options)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return _fields(self) | {"path": str(self.path)}


def write_entry(descriptor: int, stamp: SourceStamp, scan: FileScan, records_end: int) -> None:
    """Write everything but the records, which lie between the header and ``records_end``.

    Raises:
        OSError: There is no room.
    """
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(scan.episodes, name).astype(kind) for name, kind in _EPISODES.items()
    }
    for column in COLUMNS:
        moments = scan.moments[column]
        arrays[column] = np.array([getattr(moments, name) for name in _MOMENTS], "<f8")
    document = json.dumps(
        {
            "source": stamp.document(),
            "layout": scan.layout,
            "digest": scan.digest.hex(),
            "counts": {name: scan.moments[name].count for name in COLUMNS},
            "left_out": scan.left_out,
            "warnings": scan.warnings,
            "arrays": {name: array.shape for name, array in arrays.items()},
        },
        default=_fields,
    ).encode()
    body = document + b"".join(array.tobytes() for array in arrays.values())
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        len(document),
        records_end,
        len(body) - len(document),
        scan.layout.observations,
        xxhash.xxh3_64_intdigest(body),
        0,
    )
    header = header[:-_HASH_BYTES]
    header += xxhash.xxh3_64_intdigest(header).to_bytes(_HASH_BYTES, "little")
    _write_all(descriptor, body, records_end)
    _write_all(descriptor, header, 0)


def read_entry(path: Path, stamp: SourceStamp) -> tuple[FileScan, RecordPlace] | None:
    """Read what :func:`write_entry` wrote; None when it is about the source as it was once.

    Raises:
        FileNotFoundError: There is no such entry.
        OSError: It cannot be read.
        Corrupt: It is damaged, or about another file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        header = os.pread(descriptor, HEADER_BYTES, 0)[: _HEADER.size]
        if len(header) < _HEADER.size:
            raise Corrupt("it is shorter than its header")
        magic, version, document_bytes, start, array_bytes, rows, expected, own = _HEADER.unpack(
            header
        )
        if magic != _MAGIC or xxhash.xxh3_64_intdigest(header[:-_HASH_BYTES]) != own:
            raise Corrupt("its header is not what was written")
        if version != _VERSION:
            return None
        size = document_bytes + array_bytes
        if start + size != status.st_size or document_bytes > _MOST_DOCUMENT_BYTES:
            raise Corrupt(f"it has {status.st_size} bytes, its header says {start + size}")
        body = os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
    if len(body) != size or xxhash.xxh3_64_intdigest(body) != expected:
        raise Corrupt("its description is not what was written")
    try:
        document = json.loads(body[:document_bytes])
        if document["source"]["path"] != str(stamp.path):
            raise Corrupt(f"it is about {document['source']['path']}")
        if document["source"] != stamp.document():
            return None
        scan = _scan(document, body[document_bytes:], stamp)
    except (KeyError, ValueError, TypeError) as error:
        raise Corrupt(f"its description cannot be understood ({error})") from error
    shape = RecordShape(scan.layout.joint_dim, scan.layout.action_dim)
    if rows != scan.layout.observations or start != HEADER_BYTES + shape.size_bytes(rows):
        raise Corrupt(f"it has no room for {scan.layout.observations} records")
    identity = FileIdentity(path, status.st_size, status.st_mtime_ns)
    return scan, RecordPlace(identity, -1, HEADER_BYTES, rows)


def _scan(document: dict[str, Any], arrays: bytes, stamp: SourceStamp) -> FileScan:
    found: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, shape in document["arrays"].items():
        kind = np.dtype(_EPISODES.get(name, "<f8"))
        count = math.prod(shape)
        found[name] = np.frombuffer(arrays, kind, count, offset).reshape(shape)
        offset += count * kind.itemsize
    layout = dict(document["layout"])
    layout["cuts"] = tuple(layout["cuts"])
    layout["images"] = tuple(ImageColumn(**image) for image in layout["images"])
    return FileScan(
        identity=FileIdentity(stamp.path, stamp.size_bytes, stamp.modified_ns),
        layout=FileLayout(**layout),
        episodes=FileEpisodes(**{name: found[name] for name in _EPISODES}),
        digest=bytes.fromhex(document["digest"]),
        moments={
            name: Moments(document["counts"][name], *(row for row in found[name]))
            for name in COLUMNS
        },
        left_out=document["left_out"],
        warnings=tuple(
            Finding(**(warning | {"level": Level(warning["level"])}))
            for warning in document["warnings"]
        ),
    )


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass as JSON; unlike ``asdict``, nothing in it is copied."""
    return {name: getattr(value, name) for name in _names(type(value))}


@lru_cache(16)
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
