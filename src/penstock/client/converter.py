"""The converter service as its clients see it: start a conversion, watch it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self, TypeVar

from penstock.client.channel import RETRY_S, answers, open_channel, retrying
from penstock.client.errors import translated_errors
from penstock.errors import Unavailable
from penstock.targets import Target
from penstock.v1 import converter_pb2 as pb
from penstock.v1.converter_pb2_grpc import ConverterServiceStub

__all__ = ["BagOutcome", "Conversion", "ConverterClient", "open_converter"]

T = TypeVar("T")

_STATES = {
    pb.CONVERSION_STATE_QUEUED: "queued",
    pb.CONVERSION_STATE_RUNNING: "running",
    pb.CONVERSION_STATE_SUCCEEDED: "succeeded",
    pb.CONVERSION_STATE_PARTLY_SUCCEEDED: "partly succeeded",
    pb.CONVERSION_STATE_FAILED: "failed",
    pb.CONVERSION_STATE_CANCELLED: "cancelled",
}
_BAG_STATES = {
    pb.BAG_STATE_WAITING: "waiting",
    pb.BAG_STATE_RUNNING: "running",
    pb.BAG_STATE_CONVERTED: "converted",
    pb.BAG_STATE_REFUSED: "refused",
}
_ENDED = frozenset({"succeeded", "partly succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class BagOutcome:
    """What became of one bag; ``dropped`` counts frames by reason, ``warnings`` are for people."""

    bag: str
    state: str
    frames: int
    dropped: dict[str, int]
    reason: str
    error: str
    episodes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Conversion:
    """A conversion as it stands; ``eta_s`` is negative while unknown."""

    conversion_id: str
    output: str
    state: str
    bags: tuple[BagOutcome, ...]
    frames_done: int
    frames_total: int
    images_per_s: float
    eta_s: float
    peak_rss_bytes: int
    error: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in _ENDED


class ConverterClient:
    """Starts and follows conversions on a converter service."""

    def __init__(self, target: Target, retry_s: float) -> None:
        self._target, self._retry_s = target, retry_s
        self._channel = open_channel(target)
        self._stub = ConverterServiceStub(self._channel)

    def start(
        self,
        inputs: Sequence[str],
        output: str,
        mapping_yaml: str,
        *,
        overrides: Sequence[str] = (),
        overwrite: bool = False,
        append: bool = False,
    ) -> Conversion:
        """Queue a conversion; asking again for the same answers with it as it stands.

        Args:
            inputs: Bags, folders or globs, relative to the service's input folder.
            output: Name of the dataset, relative to its output folder.
            mapping_yaml: Text of the mapping.
            overrides: Dotted settings such as ``rosbag.chunk_size=1000``.
            overwrite: Replace an output that was made differently.
            append: Add the bags that the output does not have yet.
        """
        request = pb.StartConversionRequest(
            inputs=inputs,
            output=output,
            mapping_yaml=mapping_yaml,
            overrides=overrides,
            overwrite=overwrite,
            append=append,
        )

        def ask() -> pb.StartConversionResponse:
            with translated_errors(self._target):
                return self._stub.StartConversion(request)

        return _conversion(self._retry(ask).conversion)

    def watch(self, conversion_id: str) -> Iterator[Conversion]:
        """The conversion now, at every change, and when it has ended."""
        while True:
            stream = self._retry(lambda: self._first_report(conversion_id))
            try:
                with translated_errors(self._target):
                    for report in stream:
                        conversion = _conversion(report.conversion)
                        yield conversion
                        if conversion.ended:
                            return
            except Unavailable:
                continue  # the service went away in mid-stream; opening it again waits for it

    def cancel(self, conversion_id: str) -> Conversion:
        """Stop a conversion."""
        request = pb.CancelConversionRequest(conversion_id=conversion_id)

        def ask() -> pb.CancelConversionResponse:
            with translated_errors(self._target):
                return self._stub.CancelConversion(request)

        return _conversion(self._retry(ask).conversion)

    def list(self) -> list[Conversion]:
        """All conversions since the service started, newest first."""

        def ask() -> pb.ListConversionsResponse:
            with translated_errors(self._target):
                return self._stub.ListConversions(pb.ListConversionsRequest())

        return [_conversion(conversion) for conversion in self._retry(ask).conversions]

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_report(self, conversion_id: str) -> Iterator[pb.WatchConversionResponse]:
        """A stream that is known to be answered; retried until it is."""
        request = pb.WatchConversionRequest(conversion_id=conversion_id)
        with translated_errors(self._target):
            stream = answers(self._stub.WatchConversion(request))
            first = next(stream)
        return chain((first,), stream)

    def _retry(self, ask: Callable[[], T]) -> T:
        return retrying(ask, target=self._target, retry_s=self._retry_s)


def open_converter(target: str | Target, *, retry_s: float = RETRY_S) -> ConverterClient:
    """Open a converter service, e.g. ``grpc://localhost:50054``.

    Args:
        target: Where it is.
        retry_s: Seconds to wait for a service that is away.
    """
    return ConverterClient(target if isinstance(target, Target) else Target.parse(target), retry_s)


def _conversion(message: pb.Conversion) -> Conversion:
    return Conversion(
        conversion_id=message.conversion_id,
        output=message.output,
        state=_STATES.get(message.state, "unknown"),
        bags=tuple(
            BagOutcome(
                bag.bag,
                _BAG_STATES.get(bag.state, "unknown"),
                bag.frames,
                dict(bag.dropped),
                bag.reason,
                bag.error,
                bag.episodes,
                tuple(bag.warnings),
            )
            for bag in message.bags
        ),
        frames_done=message.frames_done,
        frames_total=message.frames_total,
        images_per_s=message.images_per_s,
        eta_s=message.eta_s,
        peak_rss_bytes=message.peak_rss_bytes,
        error=message.error,
    )
