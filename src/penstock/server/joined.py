"""Serialises a message around large data that is copied only once.

``SerializeToString`` copies a ``bytes`` field when it is set and again when it is written. A batch
is nothing but such fields, so the few tags around them are written here and everything is joined
at once. What comes out is the protobuf encoding of the same message: nested messages may come last,
as may any field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

__all__ = ["Unserialised", "joined"]

_LENGTH_DELIMITED = 2
_SEVEN_BITS = 0x7F
_MORE = 0x80


def joined(layers: Sequence[tuple[Message, int]], data: Sequence[bytes | memoryview]) -> bytes:
    """Serialise nested messages whose innermost last field is ``data``.

    Args:
        layers: From the outermost to the innermost message, each without the field that follows,
            with the number of that field: of the next message, and of the data at the end.
        data: Pieces of the ``bytes`` field; none of them is kept.
    """
    size = sum(len(piece) for piece in data)
    heads: list[bytes] = []
    for message, number in reversed(layers):
        head = message.SerializeToString() + _varint(number << 3 | _LENGTH_DELIMITED)
        head += _varint(size)
        heads.append(head)
        size += len(head)
    return b"".join([*reversed(heads), *data])


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > _SEVEN_BITS:
        encoded.append(value & _SEVEN_BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class Unserialised:
    """A server to which a servicer is added, some of whose streams give serialised messages.

    Stands in for the server in ``add_..._to_server`` functions.

    Args:
        server: Where the handlers go.
        methods: Methods that give ``bytes`` instead of messages.
    """

    def __init__(self, server: grpc.Server, methods: set[str]) -> None:
        self._server, self._methods = server, methods

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Left out: the same handlers come once more, by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler]
    ) -> None:
        """Add the handlers; those of the chosen methods do not serialise."""
        chosen = dict(handlers)
        for name in self._methods:
            handler: Any = handlers[name]
            chosen[name] = grpc.unary_stream_rpc_method_handler(
                handler.unary_stream, handler.request_deserializer, None
            )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, chosen),)
        )
        server: Any = self._server  # the stubs of grpc lack the method
        server.add_registered_method_handlers(service, chosen)
