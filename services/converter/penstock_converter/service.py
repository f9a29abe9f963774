"""The converter on the wire: translates calls of ``penstock.v1.ConverterService``."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from penstock.v1 import converter_pb2 as pb
from penstock.v1.converter_pb2_grpc import (
    ConverterServiceServicer,
    add_ConverterServiceServicer_to_server,
)
from penstock_converter.serving.conversions import Conversion, Conversions

__all__ = ["ConverterService"]

_STATES = {
    "queued": pb.CONVERSION_STATE_QUEUED,
    "running": pb.CONVERSION_STATE_RUNNING,
    "succeeded": pb.CONVERSION_STATE_SUCCEEDED,
    "partly_succeeded": pb.CONVERSION_STATE_PARTLY_SUCCEEDED,
    "failed": pb.CONVERSION_STATE_FAILED,
    "cancelled": pb.CONVERSION_STATE_CANCELLED,
}
_BAG_STATES = {
    "waiting": pb.BAG_STATE_WAITING,
    "running": pb.BAG_STATE_RUNNING,
    "converted": pb.BAG_STATE_CONVERTED,
    "refused": pb.BAG_STATE_REFUSED,
}


class ConverterService(ConverterServiceServicer):
    """Serves the conversions of this machine.

    Args:
        conversions: The queue.
    """

    def __init__(self, conversions: Conversions) -> None:
        self._conversions = conversions

    def register(self, server: grpc.Server) -> list[str]:
        """Add this service to ``server``; returns its full name."""
        add_ConverterServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["ConverterService"].full_name]

    def StartConversion(  # noqa: N802 - the protocol's name
        self, request: pb.StartConversionRequest, context: grpc.ServicerContext
    ) -> pb.StartConversionResponse:
        """Queue a conversion."""
        del context
        conversion = self._conversions.start(
            list(request.inputs),
            request.output,
            request.mapping_yaml,
            list(request.overrides),
            overwrite=request.overwrite,
            append=request.append,
        )
        return pb.StartConversionResponse(conversion=_message(conversion))

    def WatchConversion(  # noqa: N802 - the protocol's name
        self, request: pb.WatchConversionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchConversionResponse]:
        """Stream a conversion's state until it has ended."""
        for conversion in self._conversions.watch(request.conversion_id, context.is_active):
            yield pb.WatchConversionResponse(conversion=_message(conversion))

    def CancelConversion(  # noqa: N802 - the protocol's name
        self, request: pb.CancelConversionRequest, context: grpc.ServicerContext
    ) -> pb.CancelConversionResponse:
        """Stop a conversion."""
        del context
        return pb.CancelConversionResponse(
            conversion=_message(self._conversions.cancel(request.conversion_id))
        )

    def ListConversions(  # noqa: N802 - the protocol's name
        self, request: pb.ListConversionsRequest, context: grpc.ServicerContext
    ) -> pb.ListConversionsResponse:
        """List conversions, newest first."""
        del request, context
        return pb.ListConversionsResponse(
            conversions=[_message(conversion) for conversion in self._conversions.list()]
        )


def _message(conversion: Conversion) -> pb.Conversion:
    progress = conversion.progress
    return pb.Conversion(
        conversion_id=conversion.conversion_id,
        output=conversion.output,
        state=_STATES[conversion.state],
        bags=[
            pb.BagOutcome(
                bag=bag.bag,
                state=_BAG_STATES[bag.state],
                frames=bag.frames,
                dropped=bag.dropped,
                error=bag.error,
                reason=bag.reason,
                episodes=bag.episodes,
                warnings=bag.warnings,
            )
            for bag in progress.bags
        ],
        frames_done=progress.frames_done,
        frames_total=progress.frames_total,
        images_per_s=progress.images_per_s,
        eta_s=progress.eta_s,
        peak_rss_bytes=progress.peak_rss_bytes,
        error=conversion.error,
        created_unix_ms=conversion.created_unix_ms,
        updated_unix_ms=conversion.updated_unix_ms,
    )
