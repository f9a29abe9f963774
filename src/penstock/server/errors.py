"""Errors on their way out: canonical status, ``ErrorInfo``, and details that help."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from penstock.disk import is_disk_full
from penstock.errors import (
    Internal,
    InvalidInput,
    LimitExceeded,
    PenstockError,
    Unavailable,
)

__all__ = ["abort_with", "as_penstock_error", "status_of"]

DOMAIN = "penstock"


def as_penstock_error(error: Exception) -> PenstockError:
    """The error a client is told; what is not Penstock's own becomes Internal, without details."""
    if isinstance(error, PenstockError):
        return error
    if is_disk_full(error):
        return LimitExceeded("the server's disk is full: free space there", reason="DISK_FULL")
    return Internal(f"the server failed ({type(error).__name__}): its log has the traceback")


def abort_with(context: grpc.ServicerContext, error: PenstockError) -> None:
    """End the call with ``error``; never returns normally (gRPC raises)."""
    context.abort_with_status(status_of(error))


def status_of(error: PenstockError) -> grpc.Status:
    """Code, text and trailing metadata that a client gets."""
    details = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    extra: list[error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = []
    if isinstance(error, InvalidInput) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        extra.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, (LimitExceeded, Unavailable)) and error.retry_after_s > 0:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        extra.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.status),
        message=error.message,
        details=[_packed(detail) for detail in (*details, *extra)],
    )
    return rpc_status.to_status(status)


def _packed(
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
