"""The header of a file of cached frames, and where its index and its records lie.

    prefix | JSON | zeros | index | records

Everything is little-endian. The prefix is magic, version, length of the JSON, offset of the index,
and the XXH3-64 of the three numbers and the JSON. The index has one entry for each observation:
offset of its record, hash of its record, encoded size of each camera's image. Records lie back to
back in row order, cameras in the order of the header.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from penstock.codecs import IMAGE_CODECS
from penstock.errors import Corrupt

__all__ = [
    "MAX_HEADER_BYTES",
    "USUAL_HEADER_BYTES",
    "FrameHeader",
    "FrameSource",
    "record_hash",
]

_MAGIC = b"\x89PSTKFRM"
_VERSION = 1
_PREFIX = struct.Struct("<8sIIQQ")
_CHECKED = struct.Struct("<IIQ")
_ALIGN_BYTES = 4096
_ENTRY_ALIGN_BYTES = 8
_ENTRY_HEAD_BYTES = 16

USUAL_HEADER_BYTES = _ALIGN_BYTES
MAX_HEADER_BYTES = 1 << 20
_MAX_CAMERAS = 1024
_MAX_SIDE_PX = 8192
_MAX_OBSERVATIONS = 2**40
_MAX_BYTES = 2**60
_CHANNELS = 3


@dataclass(frozen=True)
class FrameSource:
    """The recording that frames were read from.

    Attributes:
        path: Where it was, for people.
        size_bytes: Its size.
        modified_ns: Its time of modification, in ns since 1970.
        digest: Hash of the content that batches depend on, in hexadecimal digits.
    """

    path: str
    size_bytes: int
    modified_ns: int
    digest: str


@dataclass(frozen=True)
class FrameHeader:
    """What a file of cached frames holds.

    Attributes:
        source: The recording.
        height: Pixels of every image.
        width: Pixels of every image.
        cameras: Names in the order of the camera axis.
        codec: Of every image, one of ``penstock.codecs.IMAGE_CODECS``.
        observations: Number of records.
        data_bytes: Size of all records.
    """

    source: FrameSource
    height: int
    width: int
    cameras: tuple[str, ...]
    codec: str
    observations: int
    data_bytes: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return self.height, self.width, _CHANNELS

    @property
    def raw_record_bytes(self) -> int:
        """Size of the images of one observation after decoding."""
        return len(self.cameras) * self.height * self.width * _CHANNELS

    @property
    def max_image_bytes(self) -> int:
        """No codec makes an image larger than this."""
        raw = self.height * self.width * _CHANNELS
        # Bit planes add a byte to 64, LZ4 one to 255; both start with at most some dozens.
        return raw + raw // 32 + 256

    @property
    def entry_bytes(self) -> int:
        """Size of one entry of the index."""
        return _aligned(_ENTRY_HEAD_BYTES + 4 * len(self.cameras), _ENTRY_ALIGN_BYTES)

    @property
    def entry(self) -> struct.Struct:
        """Offset, hash, then the size of each camera's image."""
        cameras = len(self.cameras)
        padding = self.entry_bytes - _ENTRY_HEAD_BYTES - 4 * cameras
        return struct.Struct(f"<QQ{cameras}I{padding}x")

    def data_offset(self, index_offset: int) -> int:
        """Offset of the first record in the file."""
        return index_offset + self.observations * self.entry_bytes

    def reserve(self) -> int:
        """Offset of the index: room for this header whatever ``data_bytes`` it ends with."""
        longest = len(self._json()) + len(str(_MAX_BYTES))
        return _aligned(_PREFIX.size + longest, _ALIGN_BYTES)

    def pack(self, index_offset: int) -> bytes:
        """The first bytes of a file, up to its index."""
        text = self._json()
        checked = _CHECKED.pack(_VERSION, len(text), index_offset)
        digest = xxhash.xxh3_64_intdigest(checked + text)
        prefix = _PREFIX.pack(_MAGIC, _VERSION, len(text), index_offset, digest)
        return (prefix + text).ljust(index_offset, b"\0")

    @staticmethod
    def size_bytes(data: bytes) -> int:
        """Bytes that a file announces for prefix and JSON; 0 if it is too short to say."""
        return _PREFIX.size + _PREFIX.unpack_from(data)[2] if len(data) >= _PREFIX.size else 0

    @classmethod
    def unpack(cls, data: bytes, name: str) -> tuple[FrameHeader, int]:
        """Read a header, and the offset of the index.

        Args:
            data: The first bytes of the file, at least :meth:`size_bytes` of them if it has them.
            name: Of the file, for errors.

        Raises:
            Corrupt: It is no header, or a value is out of range.
        """
        if len(data) < _PREFIX.size or data[: len(_MAGIC)] != _MAGIC:
            raise Corrupt(f"{name}: is no file of cached frames (wrong first bytes)")
        _, version, text_bytes, index_offset, digest = _PREFIX.unpack_from(data)
        text = data[_PREFIX.size : _PREFIX.size + text_bytes]
        checked = _CHECKED.pack(version, text_bytes, index_offset)
        if xxhash.xxh3_64_intdigest(checked + text) != digest:
            raise Corrupt(f"{name}: the header does not match its hash")
        if version != _VERSION:
            raise Corrupt(f"{name}: has version {version}, this is version {_VERSION}")
        if not _PREFIX.size + text_bytes <= index_offset <= MAX_HEADER_BYTES:
            raise Corrupt(f"{name}: the index cannot be at {index_offset}")
        try:
            fields = json.loads(text)
            header = _from_fields(fields)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Corrupt(f"{name}: the header cannot be read: {error}") from error
        return header, index_offset

    def _json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode("ascii")


def record_hash(record: Any, row: int, sizes: bytes) -> int:
    """XXH3-64 of a record; of its row and its entry's sizes as well, so that none can be mistaken.

    Args:
        record: The bytes of one observation.
        row: Its row.
        sizes: What follows offset and hash in its entry of the index.
    """
    return xxhash.xxh3_64_intdigest(record, xxhash.xxh3_64_intdigest(sizes, row))


def _from_fields(fields: Mapping[str, Any]) -> FrameHeader:
    source, cameras = fields["source"], fields["cameras"]
    if not (isinstance(cameras, list) and len(cameras) <= _MAX_CAMERAS):
        raise ValueError(f"cameras {cameras!r:.100}")
    codec = _text(fields["codec"], "codec")
    if codec not in IMAGE_CODECS:
        raise ValueError(f"codec {codec!r:.100} is not one of {list(IMAGE_CODECS)}")
    return FrameHeader(
        source=FrameSource(
            _text(source["path"], "path"),
            _number(source["size_bytes"], "size_bytes", 0, _MAX_BYTES),
            _number(source["modified_ns"], "modified_ns", -_MAX_BYTES * 8, _MAX_BYTES * 8),
            _text(source["digest"], "digest"),
        ),
        height=_number(fields["height"], "height", 1, _MAX_SIDE_PX),
        width=_number(fields["width"], "width", 1, _MAX_SIDE_PX),
        cameras=tuple(_text(camera, "cameras") for camera in cameras),
        codec=codec,
        observations=_number(fields["observations"], "observations", 0, _MAX_OBSERVATIONS),
        data_bytes=_number(fields["data_bytes"], "data_bytes", 0, _MAX_BYTES),
    )


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{field} {value!r:.100} is no text")
    return value


def _number(value: object, field: str, least: int, most: int) -> int:
    # bool is an int to isinstance, and no number here.
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{field} {value!r:.100} is not between {least} and {most}")
    return value


def _aligned(size: int, step: int) -> int:
    return -(-size // step) * step
