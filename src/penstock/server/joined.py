"""Serialises a message around large data that is written right where it goes.

``SerializeToString`` copies a ``bytes`` field when it is set and again when it is written. A batch
is nothing but such fields, so the few tags around them are written here, and the data is read into
the message itself. What comes out is the protobuf encoding of the same message: nested messages may
come last, as may any field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

__all__ = ["Unserialised", "head_of", "joined"]

_LENGTH_DELIMITED = 2
_SEVEN_BITS = 0x7F
_MORE = 0x80


def joined(
    layers: Sequence[tuple[Message, int]], size_bytes: int, fill: Callable[[memoryview], None]
) -> bytes:
    """Serialise nested messages whose innermost last field is data.

    Args:
        layers: From the outermost to the innermost message, each without the field that follows,
            with the number of that field: of the next message, and of the data at the end.
        size_bytes: Of the data.
        fill: Writes all of the data into memory of that size, which it must not keep.
    """
    start = head_of(layers, size_bytes)
    whole = _new_bytes(None, len(start) + size_bytes)
    memory = (ctypes.c_ubyte * len(whole)).from_address(_address(whole))
    view = memoryview(memory).cast("B")
    view[: len(start)] = start
    fill(view[len(start) :])
    return whole


def head_of(layers: Sequence[tuple[Message, int]], size_bytes: int) -> bytes:
    """All of such a message but the data at its end, to which ``joined`` adds it."""
    heads: list[bytes] = []
    rest = size_bytes
    for message, number in reversed(layers):
        head = message.SerializeToString() + _varint(number << 3 | _LENGTH_DELIMITED)
        head += _varint(rest)
        heads.append(head)
        rest += len(head)
    return b"".join(reversed(heads))


# Python's own way to make a bytes object and write its contents afterwards, as long as nobody else
# has seen it: one copy of each message less.
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype, _new_bytes.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
_address = ctypes.pythonapi.PyBytes_AsString
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object,)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > _SEVEN_BITS:
        encoded.append(value & _SEVEN_BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class Unserialised:
    """A server to which a servicer is added, some of whose streams are of serialised messages.

    Stands in for the server in ``add_..._to_server`` functions.

    Args:
        server: Where the handlers go.
        methods: Methods that give a stream of ``bytes`` instead of messages.
        takers: Methods that are given a stream of ``bytes`` instead of messages.
    """

    def __init__(
        self, server: grpc.Server, methods: set[str], takers: frozenset[str] = frozenset()
    ) -> None:
        self._server, self._methods, self._takers = server, methods, takers

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Left out: the same handlers come once more, by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler]
    ) -> None:
        """Add the handlers; those of the chosen methods do not serialise, or do not read."""
        chosen = dict(handlers)
        for name in self._methods:
            handler: Any = handlers[name]
            chosen[name] = grpc.unary_stream_rpc_method_handler(
                handler.unary_stream, handler.request_deserializer, None
            )
        for name in self._takers:
            handler: Any = handlers[name]
            chosen[name] = grpc.stream_unary_rpc_method_handler(
                handler.stream_unary, None, handler.response_serializer
            )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, chosen),)
        )
        server: Any = self._server  # the stubs of grpc lack the method
        server.add_registered_method_handlers(service, chosen)
