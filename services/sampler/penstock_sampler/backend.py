"""The backend of the sampler: the same code behind ``file://`` targets and behind the service."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import InvalidInput, NotFound, Unsupported
from penstock.observations import Observations
from penstock.targets import Target
from penstock_sampler.cache import FrameAccess, FrameCache, Recording, Wanted, Warming, open_cache
from penstock_sampler.cores import default_io_threads
from penstock_sampler.index.dataset_index import DatasetIndex, Located, build_index
from penstock_sampler.index.discovery import find_files
from penstock_sampler.serving.status import CacheStatus
from penstock_sampler.settings import DataSettings
from penstock_sampler.sources.files import OpenFiles
from penstock_sampler.sources.frames import FrameReader
from penstock_sampler.weights import WeightStore

__all__ = ["Hdf5Backend", "open_backend"]

_INDEX_FOLDER = "index"
"""Within the cache's folder: what is known of each file."""


def open_backend(target: Target, settings: DataSettings | None = None) -> Hdf5Backend:
    """Open the dataset of a ``file`` target.

    Args:
        target: Paths, folders and patterns of HDF5 files.
        settings: How files are read; None takes them from the environment (``PENSTOCK_CAMERAS``,
            ``PENSTOCK_IMAGE_ORDER``, ...).

    Raises:
        NotFound: A location matches no file.
        DataFault: No file can be served; names the first reasons.
        InvalidInput: The target is no ``file`` target, or a setting does not fit.
    """
    if target.scheme != "file":
        raise InvalidInput(f"{target}: only file:// targets are read here", field="target")
    settings = DataSettings.load() if settings is None else settings
    folder = settings.cache_folder
    index = build_index(
        find_files(target.locations),
        settings.data_options(),
        settings.spool_dir,
        folder / _INDEX_FOLDER if folder else None,
        settings.max_open_files,
    )
    files = OpenFiles(settings.max_open_files)
    weights = WeightStore(
        settings.data_options().weight_columns,
        [file.identity for file in index.files],
        index.episodes,
        files,
        settings.spool_dir,
    )
    return Hdf5Backend(index, files, settings.io_threads, weights, open_cache(settings, files))


class Hdf5Backend:
    """Reads transitions from HDF5 files; safe to call from several threads.

    Args:
        index: The dataset; closed by :meth:`close`.
        files: Open files; closed by :meth:`close`.
        io_threads: Reads in flight.
        weights: Weights of the transitions; None for a dataset without.
        cache: Cached frames; closed by :meth:`close`. None reads all frames on the fly.
    """

    def __init__(
        self,
        index: DatasetIndex,
        files: OpenFiles,
        io_threads: int | None = None,
        weights: WeightStore | None = None,
        cache: FrameCache | None = None,
    ) -> None:
        self._index, self._files = index, files
        self._weights = weights or WeightStore((), (), index.episodes, files)
        threads = default_io_threads() if io_threads is None else io_threads
        self._frames = FrameAccess(self._recording, FrameReader(files, threads), cache, threads)

    def info(self) -> DatasetInfo:
        """Describe the dataset."""
        return self._index.info

    def episodes(self) -> EpisodeTable:
        """All episodes."""
        return self._index.episodes

    def weights(self, column: str) -> NDArray[np.float32]:
        """One weight per transition, read-only; the first call reads them from the files.

        Raises:
            NotFound: There is no such weight column; names those there are.
            DataFault: A file cannot be read any more; the message names it.
        """
        return self._weights.column(column)

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fill ``out`` with the transitions ``ids``, row by row in that order.

        Raises:
            InvalidInput: An id is out of range, or ``out`` was allocated for something else.
            DataFault: A file cannot be read any more; the message names it.
        """
        info = self._index.info
        expected = (len(ids), 2, len(info.cameras), *spec.resolve(info), 3)
        if out.frames.shape != expected:
            raise InvalidInput(
                f"the batch holds frames {out.frames.shape}, these transitions need {expected}",
                field="out",
            )
        located = self._index.locate(ids)
        self._read_columns(ids, located, out)
        if info.cameras:
            self._frames.read(self._wanted(located, spec), out.frames)

    def read_columns(self, ids: NDArray[np.int64], out: Batch) -> None:
        """Fill everything of ``out`` but its frames.

        Raises:
            InvalidInput: An id is out of range.
        """
        self._read_columns(ids, self._index.locate(ids), out)

    def read_observations(
        self, ids: NDArray[np.int64], spec: FrameSpec, accepted: tuple[str, ...]
    ) -> Observations:
        """The frames of ``ids``, every observation once, encoded.

        Raises:
            InvalidInput: An id is out of range.
            DataFault: A file cannot be read any more; the message names it.
        """
        return self._frames.observations(self._wanted(self._index.locate(ids), spec), accepted)

    def cached_observations(
        self, ids: NDArray[np.int64], spec: FrameSpec, accepted: tuple[str, ...]
    ) -> Observations | None:
        """The same where all of it is cached, read when its turn comes; else None.

        Raises:
            InvalidInput: An id is out of range.
        """
        return self._frames.cached_observations(
            self._wanted(self._index.locate(ids), spec), accepted
        )

    def cached_frames(self, file_id: str, spec: FrameSpec) -> int | None:
        """A descriptor of the cached frames of a file, which the caller closes; None without.

        Raises:
            NotFound: No such file is served.
        """
        files = self._index.info.files
        number = bisect_left(files, file_id, key=lambda file: file.file_id)
        if number == len(files) or files[number].file_id != file_id:
            raise NotFound(f"file {file_id!r} is not served here", metadata={"file": file_id})
        return self._frames.descriptor(number, *spec.resolve(self._index.info))

    def cache_status(self) -> CacheStatus:
        """State of the frame cache now."""
        cache = self._frames.cache
        return CacheStatus() if cache is None else cache.status()

    def warm(self, jobs: int, spec: FrameSpec) -> Warming:
        """Cache the frames of all files at that size; see :class:`Warming`.

        Raises:
            Unsupported: There is no frame cache.
        """
        cache = self._frames.cache
        if cache is None:
            raise Unsupported("there is no frame cache: name a folder that can be written to")
        size = spec.resolve(self._index.info)
        numbers = range(len(self._index.files) if self._index.info.cameras else 0)
        return Warming(cache, [self._frames.key(number, *size) for number in numbers], jobs)

    def _wanted(self, located: Located, spec: FrameSpec) -> Wanted:
        info = self._index.info
        height, width = spec.resolve(info)
        return Wanted(located.file, located.row, located.next_row, len(info.cameras), height, width)

    def _recording(self, number: int) -> Recording:
        file = self._index.files[number]
        return Recording(
            file.identity,
            file.layout.images,
            file.layout.observations,
            self._index.info.files[number].digest,
            file.self_contained,
        )

    def _read_columns(self, ids: NDArray[np.int64], located: Located, out: Batch) -> None:
        index = self._index
        records, following = index.read_records(located)
        joint_dim = index.info.joint_dim
        out.transition_ids[:] = ids
        out.joint[:] = records[:, :joint_dim]
        out.next_joint[:] = following[:, :joint_dim]
        out.action[:] = records[:, joint_dim:-1]
        out.reward[:] = records[:, -1]
        out.terminal[:] = located.terminal

    def close(self) -> None:
        """Release files."""
        self._frames.close()
        self._files.close()
        self._index.close()
