"""One interceptor for every call: error mapping, metrics, and one log line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import structlog
from prometheus_client import Counter, Gauge, Histogram

from penstock.errors import Internal, PenstockError
from penstock.server.errors import abort_with, as_penstock_error

__all__ = ["CallInterceptor"]

log = structlog.get_logger(__name__)

CALLS = Counter("penstock_calls_total", "Calls by method and status.", ["method", "code"])
SECONDS = Histogram("penstock_call_seconds", "Duration of calls.", ["method"])
IN_FLIGHT = Gauge(
    "penstock_calls_in_flight", "Calls being answered.", ["method"], multiprocess_mode="livesum"
)
MESSAGES = Counter("penstock_messages_sent_total", "Messages sent in answers.", ["method"])

# Probes come every few seconds; their lines would hide the others.
_QUIET = ("/grpc.health.", "/grpc.reflection.")


class _Call:
    """One call from its start to its end, whichever way it ends."""

    def __init__(self, method: str, context: grpc.ServicerContext) -> None:
        self.method, self.context = method, context
        self.begun = time.perf_counter()
        self.sent = 0
        IN_FLIGHT.labels(method).inc()

    def fail(self, error: Exception) -> None:
        """Tell the client, and write down what it is not told."""
        told = as_penstock_error(error)
        if isinstance(told, Internal):
            log.error("call failed", method=self.method, exc_info=error)
        self.end(told.status, told)
        abort_with(self.context, told)

    def end(self, code: str, error: PenstockError | None = None) -> None:
        """Count the call and write its line."""
        seconds = time.perf_counter() - self.begun
        IN_FLIGHT.labels(self.method).dec()
        CALLS.labels(self.method, code).inc()
        SECONDS.labels(self.method).observe(seconds)
        MESSAGES.labels(self.method).inc(self.sent)
        if self.method.startswith(_QUIET):
            return
        fields: dict[str, Any] = {
            "method": self.method,
            "code": code,
            "ms": round(seconds * 1e3, 1),
            "messages": self.sent,
            "peer": self.context.peer(),
        }
        if error is not None:
            fields |= {"reason": error.reason, "error": error.message}
        log.info("call", **fields)


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps all four kinds of handlers, streams included."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Replace a handler's behaviour by its guarded form."""
        handler: Any = continuation(handler_call_details)
        if handler is None:
            return None
        method: str = handler_call_details.method
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            guarded = _guard_stream(method, behaviour)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            guarded = _guard_unary(method, behaviour)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(guarded, handler.request_deserializer, handler.response_serializer)


def _guard_unary(method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        call = _Call(method, context)
        try:
            response = behaviour(request, context)
        except Exception as error:  # every fault becomes a status, none is lost
            if _already_ended(context):
                call.end("ABORTED_BY_HANDLER")
                raise
            call.fail(error)
            return None
        call.sent = 1
        call.end("OK")
        return response

    return guarded


def _guard_stream(method: str, behaviour: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        call = _Call(method, context)
        try:
            for response in behaviour(request, context):
                call.sent += 1
                yield response
        except GeneratorExit:
            call.end("CANCELLED")
            raise
        except Exception as error:  # every fault becomes a status, none is lost
            if _already_ended(context):
                call.end("CANCELLED" if not context.is_active() else "ABORTED_BY_HANDLER")
                raise
            call.fail(error)
            return
        call.end("OK" if context.is_active() else "CANCELLED")

    return guarded


def _already_ended(context: Any) -> bool:
    """Whether the handler itself, or the client, has ended the call."""
    return not context.is_active() or context.code() is not None
