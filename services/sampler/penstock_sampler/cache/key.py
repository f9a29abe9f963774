"""Which cached file belongs to which recording, and for which image size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import xxhash

from penstock.frame_file import FrameHeader, FrameSource
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.images import ImageColumn

__all__ = ["SUFFIX", "FrameKey", "Recording"]

SUFFIX = ".frames"

_PIXELS_VERSION = 2
"""Another number where a stored frame is turned into other pixels than before (see resize)."""


@dataclass(frozen=True)
class Recording:
    """A file whose frames can be cached.

    Attributes:
        identity: The file as it was indexed.
        images: Its cameras.
        observations: Frames of each camera.
        digest: Hash of the content that batches depend on.
        self_contained: Whether all frames lie in this very file.
    """

    identity: FileIdentity
    images: tuple[ImageColumn, ...]
    observations: int
    digest: bytes
    self_contained: bool = True

    @property
    def source(self) -> FrameSource:
        """What a cached file says about it."""
        identity = self.identity
        return FrameSource(
            str(identity.path), identity.size_bytes, identity.modified_ns, self.digest.hex()
        )


@dataclass(frozen=True)
class FrameKey:
    """The frames of one recording, at one size.

    Attributes:
        recording: Whose frames.
        height: Pixels of every image.
        width: Pixels of every image.
    """

    recording: Recording
    height: int
    width: int

    @cached_property
    def place(self) -> str:
        """First half of the name: the same for every state of the recording, and every size."""
        path = str(self.recording.identity.path)
        return xxhash.xxh3_64_hexdigest(path.encode("utf-8", "surrogateescape"))

    @cached_property
    def name(self) -> str:
        """Name of the cached file: another one when the recording has changed."""
        source = self.recording.source
        what = (
            (source.size_bytes, source.modified_ns, source.digest),
            self.recording.images,
            (self.height, self.width),
            _PIXELS_VERSION,
        )
        state = xxhash.xxh3_64_hexdigest(repr(what).encode("utf-8", "surrogateescape"))
        return f"{self.place}-{state}{SUFFIX}"

    @property
    def raw_record_bytes(self) -> int:
        """Size of the images of one observation before encoding."""
        return self.header("raw").raw_record_bytes

    def header(self, codec: str) -> FrameHeader:
        """The header of the file that is to be written."""
        return FrameHeader(
            self.recording.source,
            self.height,
            self.width,
            tuple(image.camera for image in self.recording.images),
            codec,
            self.recording.observations,
        )

    def fits(self, header: FrameHeader) -> bool:
        """Whether a file holds these frames."""
        return (
            header.source == self.recording.source
            and (header.height, header.width) == (self.height, self.width)
            and header.cameras == tuple(image.camera for image in self.recording.images)
            and header.observations == self.recording.observations
        )
