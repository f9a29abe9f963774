"""Errors on their way in: a failed call becomes the same exception the server raised."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penstock.errors import (
    InvalidInput,
    LimitExceeded,
    PenstockError,
    Unavailable,
    error_for_status,
)

__all__ = ["translated_errors"]

_BUSY = "Concurrent RPC limit exceeded"
_OWN_CANCELS = ("Locally cancelled by application!", "Channel closed!")
"""What gRPC says of a call that this side gave up."""


@contextlib.contextmanager
def translated_errors(target: object) -> Generator[None]:
    """Raise Penstock's exceptions for calls that fail inside the block.

    Args:
        target: Whom the calls go to, for messages.

    Raises:
        PenstockError: Of the class, reason, metadata and field that the server sent.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _translate(error, target) from error


def _translate(error: Any, target: object) -> PenstockError:
    code: grpc.StatusCode = error.code()
    kind = error_for_status(code.name)
    message = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        message = f"{target} does not answer: {message}: is the service running there?"
    status = rpc_status.from_call(error)
    if status is None:
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _BUSY in message:
            # gRPC itself turned the call away before any handler saw it: a retry is safe and helps.
            return Unavailable(f"{target} answers as many calls as it takes", reason="BUSY")
        if code is grpc.StatusCode.CANCELLED and message not in _OWN_CANCELS:
            # A server that is told to end cancels what it has not finished in time. No handler
            # said so (it would have sent a status of ours), so another server may finish it.
            return Unavailable(f"{target} is ending and gave up the call", reason="ENDING")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            # gRPC's own answer: no service of that name is there.
            message = (
                f"{target} does not offer this call: is it another service, or an older one? See "
                f"penstock status {target}"
            )
        return kind(message)
    return _with_details(kind(status.message), status)


def _with_details(error: PenstockError, status: Any) -> PenstockError:
    """What the server said besides the message: reason, metadata, field, when to come back."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_s = 0.0
    for detail in status.details:
        if detail.Unpack(info):
            error.reason, error.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(request) and isinstance(error, InvalidInput):
            error.field = request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_s = retry.retry_delay.ToMilliseconds() / 1000
    if retry_s and isinstance(error, LimitExceeded):
        # Busy, not too much: whoever retries what is unavailable retries this as well.
        error = Unavailable(error.message, reason=error.reason, metadata=error.metadata)
    if isinstance(error, Unavailable):
        error.retry_after_s = retry_s
    return error
