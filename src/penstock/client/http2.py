"""gRPC over HTTP/2 without grpcio, for streams whose data must not be copied on its way.

grpcio hands every message through buffers of its own: half of what a batch of frames costs. Both
ends of a direct port therefore speak the same protocol with h2, which does all of it but the data:
frames of data (``DATA``) go from a file to the socket, and from the socket to where the message is
read. This module holds what both ends share; docs/wire-format.md says what goes over the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

__all__ = [
    "CONTENT_TYPE",
    "DATA",
    "END_STREAM",
    "FIRST_WINDOW",
    "FRAME_HEAD_BYTES",
    "GOAWAY",
    "MESSAGE_HEAD",
    "PADDED",
    "REPLICA",
    "STREAM_ID_BITS",
    "Http2End",
    "data_head",
    "h2_connection",
    "texts",
    "window_update",
]

CONTENT_TYPE = "application/grpc"
REPLICA = "penstock-replica-id"
"""Header of a call and of its answer: which process is meant, and which one answers; decimal."""
MESSAGE_HEAD = struct.Struct(">BI")
"""Of a message: whether it is compressed, and its size."""
DATA, GOAWAY, _WINDOW_UPDATE = 0x0, 0x7, 0x8
"""Types of frames."""
END_STREAM, PADDED = 0x1, 0x8
"""Flags of frames of data."""
FIRST_WINDOW = 2**16 - 1
"""Of a connection, in bytes; it can only be opened wider."""
STREAM_ID_BITS = 2**31 - 1
"""The bit above them means nothing."""
FRAME_HEAD_BYTES = 9
_FRAME_HEAD = struct.Struct(">BHBBI")


class Http2End(H2Connection):
    """One end of a connection."""

    # It remembers so many streams of the past, for the sake of frames that come late. A connection
    # here lives for thousands of them, one at a time.
    MAX_CLOSED_STREAMS = 16

    def let_go(self) -> None:
        """Free its memory now, not when Python next looks for cycles; the last call of all."""
        self.__dict__.clear()


def h2_connection(*, client: bool, settings: dict[SettingCodes, int]) -> Http2End:
    """One end of a connection, with settings of its own from the first frame on."""
    config = H2Configuration(
        client_side=client,
        # In which all bytes mean something: what others send is compared, no more.
        header_encoding="latin-1",
        # What is sent is written here, and as it should be.
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    connection = Http2End(config)
    connection.local_settings = Settings(client=client, initial_values=settings)
    connection.max_inbound_frame_size = connection.local_settings.max_frame_size
    return connection


def texts(headers: Iterable[Any] | None) -> dict[str, str]:
    """Headers that came to such an end, by their names."""
    return dict(headers or ())


def data_head(size: int, stream_id: int) -> bytes:
    """What goes before ``size`` bytes of data of a stream."""
    return _FRAME_HEAD.pack(size >> 16, size & 0xFFFF, DATA, 0, stream_id)


def window_update(size: int, stream_id: int) -> bytes:
    """A frame that lets the other end send so many bytes more: of a stream, or in all for 0."""
    return _FRAME_HEAD.pack(0, 4, _WINDOW_UPDATE, 0, stream_id) + size.to_bytes(4, "big")
