"""A call of gRPC over HTTP/2: the request as it arrives, and what ends the answer."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hpack import NeverIndexedHeaderTuple

from penstock.client.http2 import MESSAGE_HEAD
from penstock.errors import InvalidInput, LimitExceeded, PenstockError, Unsupported
from penstock.server.errors import status_of

__all__ = ["Call", "trailers"]

MAX_REQUEST_BYTES = 1 << 20
"""More than the largest request with all ids that one may have."""
_TEXT_BYTES = _DETAIL_BYTES = 2048
"""Of a status at most: clients take eight kilobytes of headers, and refuse an answer with more."""
_READABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What the text of a status may hold as it is."""


@dataclass
class Call:
    """What a client asks for.

    Attributes:
        stream_id: Where it is answered.
        headers: All of them.
        request: The one message, serialised, once it is complete.
        fault: Why it cannot be answered; None where it can.
    """

    stream_id: int
    headers: dict[str, str]
    request: bytes = b""
    fault: PenstockError | None = None
    _taken: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def path(self) -> str:
        """Of the method."""
        return self.headers.get(":path", "")

    def take(self, data: bytes) -> None:
        """Some of the request has come; no more is kept than may come in all."""
        # One byte too many is enough to see that it is too large.
        room = MESSAGE_HEAD.size + MAX_REQUEST_BYTES + 1 - len(self._taken)
        self._taken += data[:room]

    def complete(self) -> None:
        """All of it has come."""
        self.request, self.fault = _message_in(self._taken)
        self._taken = bytearray()


def trailers(error: PenstockError | None) -> list[Any]:
    """Headers that end an answer, complete or failed."""
    if error is None:
        return [("grpc-status", "0")]
    status = status_of(error)
    text: str = status.details
    while len(quote(text, _READABLE)) > _TEXT_BYTES:
        text = text[: len(text) * 3 // 4]
    told = [("grpc-message", quote(text, _READABLE))]
    # Details repeat the text, and clients compare the two.
    details: Any = status.trailing_metadata if text == status.details else None
    told += [
        (name, base64.b64encode(value).decode().rstrip("="))
        for name, value in details or ()
        if len(value) <= _DETAIL_BYTES
    ]
    # Each is another one: neither end is to remember it.
    never_again = [NeverIndexedHeaderTuple(*each) for each in told]
    return [("grpc-status", str(status.code.value[0])), *never_again]


def _message_in(taken: bytearray) -> tuple[bytes, PenstockError | None]:
    """The one message of a request, or what is wrong with it."""
    if len(taken) > MESSAGE_HEAD.size + MAX_REQUEST_BYTES:
        error = f"the request has more than {MAX_REQUEST_BYTES} bytes: ask for less at a time"
        return b"", LimitExceeded(error, reason="TOO_LARGE")
    if len(taken) < MESSAGE_HEAD.size:
        return b"", InvalidInput("a request is one message, this has none")
    compressed, size = MESSAGE_HEAD.unpack_from(taken)
    if compressed:
        return b"", Unsupported("the request is compressed: send it as it is")
    if size != len(taken) - MESSAGE_HEAD.size:
        here = len(taken) - MESSAGE_HEAD.size
        return b"", InvalidInput(f"a message of {size} bytes is announced, {here} are there")
    return bytes(taken[MESSAGE_HEAD.size :]), None
