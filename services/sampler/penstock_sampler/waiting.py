"""A sampler that is up before its data is: it looks again at every call until there is some."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc

from penstock.backends import SamplerBackend
from penstock.errors import DataFault, NotFound
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import (
    SamplerServiceServicer,
    add_SamplerServiceServicer_to_server,
)
from penstock_sampler.service import SamplerService

__all__ = ["WaitingSamplerService"]


class WaitingSamplerService(SamplerServiceServicer):
    """Opens the dataset at the first call that finds one, and serves that from then on.

    A call that finds none ends with FAILED_PRECONDITION and says what was looked for. Files that
    come after the dataset was opened are served after a restart.

    Args:
        open_backend: Opens the dataset; raises NotFound or DataFault while there is none.
        group_bytes: See :class:`SamplerService`.
        max_calls: See :class:`SamplerService`.
    """

    def __init__(
        self, open_backend: Callable[[], SamplerBackend], group_bytes: int, max_calls: int
    ) -> None:
        self._open_backend = open_backend
        self._group_bytes, self._max_calls = group_bytes, max_calls
        self._backend: SamplerBackend | None = None
        self._service: SamplerService | None = None
        self._opening = threading.Lock()

    def open(self) -> SamplerService:
        """The service of the dataset, opened now if it was not yet.

        Raises:
            NotFound: No file matches.
            DataFault: No file can be served.
        """
        with self._opening:
            if self._service is None:
                self._backend = self._open_backend()
                self._service = SamplerService(self._backend, self._group_bytes, self._max_calls)
            return self._service

    def register(self, server: grpc.Server) -> list[str]:
        """Add this service to ``server``; returns its full name."""
        add_SamplerServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["SamplerService"].full_name]

    def close(self) -> None:
        """Close the dataset if it was opened."""
        if self._backend is not None:
            self._backend.close()

    def GetDataset(  # noqa: N802 - the protocol's name
        self, request: pb.GetDatasetRequest, context: grpc.ServicerContext
    ) -> pb.GetDatasetResponse:
        """See :meth:`SamplerService.GetDataset`."""
        return self._found().GetDataset(request, context)

    def ListEpisodes(  # noqa: N802 - the protocol's name
        self, request: pb.ListEpisodesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListEpisodesResponse]:
        """See :meth:`SamplerService.ListEpisodes`."""
        yield from self._found().ListEpisodes(request, context)

    def Sample(  # noqa: N802 - the protocol's name
        self, request: pb.SampleRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SampleResponse]:
        """See :meth:`SamplerService.Sample`."""
        yield from self._found().Sample(request, context)

    def Fetch(  # noqa: N802 - the protocol's name
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FetchResponse]:
        """See :meth:`SamplerService.Fetch`."""
        yield from self._found().Fetch(request, context)

    def _found(self) -> SamplerService:
        try:
            return self.open()
        except (NotFound, DataFault) as error:
            raise DataFault(
                f"nothing to serve yet, the sampler looks again at the next call: {error.message}",
                reason="NO_DATA_YET",
                metadata=error.metadata,
            ) from error
