"""A dataset that may come later: it is looked for at every call until it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.backends import ReplicaBackend
from penstock.batch import Batch, FrameSpec
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import DataFault, NotFound
from penstock.observations import Observations

__all__ = ["WaitingBackend"]


class WaitingBackend:
    """Opens the dataset at the first call that finds one, and serves that from then on.

    Files that come after the dataset was opened are served after a restart.

    Args:
        open_backend: Opens the dataset; raises NotFound or DataFault while there is none.
    """

    def __init__(self, open_backend: Callable[[], ReplicaBackend]) -> None:
        self._open_backend = open_backend
        self._backend: ReplicaBackend | None = None
        self._opening = threading.Lock()

    def open(self) -> ReplicaBackend:
        """The dataset, opened now if it was not yet.

        Raises:
            NotFound: No file matches.
            DataFault: No file can be served.
        """
        with self._opening:
            if self._backend is None:
                self._backend = self._open_backend()
            return self._backend

    def info(self) -> DatasetInfo:
        """Describe the dataset.

        Raises:
            DataFault: There is none yet (reason ``NO_DATA_YET``); says what was looked for. The
                same holds for the other calls.
        """
        return self._found().info()

    def episodes(self) -> EpisodeTable:
        """All episodes."""
        return self._found().episodes()

    def weights(self, column: str) -> NDArray[np.float32]:
        """One weight per transition."""
        return self._found().weights(column)

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fill ``out`` with the transitions ``ids``, row by row in that order."""
        self._found().read(ids, spec, out)

    def read_columns(self, ids: NDArray[np.int64], out: Batch) -> None:
        """Fill everything of ``out`` but its frames."""
        self._found().read_columns(ids, out)

    def read_observations(
        self, ids: NDArray[np.int64], spec: FrameSpec, accepted: tuple[str, ...]
    ) -> Observations:
        """The frames of ``ids``, every observation once, encoded."""
        return self._found().read_observations(ids, spec, accepted)

    def cached_frames(self, file_id: str, spec: FrameSpec) -> int | None:
        """A descriptor of the cached frames of a file, which the caller closes."""
        return self._found().cached_frames(file_id, spec)

    def close(self) -> None:
        """Close the dataset if it was opened."""
        if self._backend is not None:
            self._backend.close()

    def _found(self) -> ReplicaBackend:
        try:
            return self.open()
        except (NotFound, DataFault) as error:
            raise DataFault(
                f"nothing to serve yet, the sampler looks again at the next call: {error.message}",
                reason="NO_DATA_YET",
                metadata=error.metadata,
            ) from error
