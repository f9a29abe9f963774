"""The backend of the sampler: the same code behind ``file://`` targets and behind the service."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.codecs import choose_codec, encode_images
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import InvalidInput
from penstock.observations import Observations
from penstock.targets import Target
from penstock_sampler.discovery import find_files
from penstock_sampler.files import OpenFiles
from penstock_sampler.frames import FrameReader, FrameRequest
from penstock_sampler.index import DatasetIndex, Located, build_index
from penstock_sampler.settings import DataSettings
from penstock_sampler.weights import WeightStore

__all__ = ["Hdf5Backend", "open_backend"]


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
    index = build_index(find_files(target.locations), settings.data_options(), settings.spool_dir)
    files = OpenFiles(settings.max_open_files)
    weights = WeightStore(
        settings.data_options().weight_columns,
        [file.identity for file in index.files],
        index.episodes,
        files,
        settings.spool_dir,
    )
    return Hdf5Backend(index, files, settings.io_threads, weights)


class Hdf5Backend:
    """Reads transitions from HDF5 files; safe to call from several threads.

    Args:
        index: The dataset; closed by :meth:`close`.
        files: Open files; closed by :meth:`close`.
        io_threads: Reads in flight.
        weights: Weights of the transitions; None for a dataset without.
    """

    def __init__(
        self,
        index: DatasetIndex,
        files: OpenFiles,
        io_threads: int | None = None,
        weights: WeightStore | None = None,
    ) -> None:
        self._index, self._files = index, files
        self._weights = weights or WeightStore((), (), index.episodes, files)
        self._reader = FrameReader(files, io_threads)

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
        if not info.cameras:
            return
        rows = np.arange(len(ids))
        self._read_frames(
            np.tile(located.file, 2),
            np.concatenate([located.row, located.next_row]),
            np.stack([np.tile(rows, 2), np.repeat([0, 1], len(rows))], axis=1),
            out.frames,
        )

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
        info = self._index.info
        located = self._index.locate(ids)
        pairs = np.stack(
            [np.tile(located.file, 2), np.concatenate([located.row, located.next_row])], axis=1
        )
        distinct, shown = np.unique(pairs, axis=0, return_inverse=True)
        shown = shown.reshape(-1)
        height, width = spec.resolve(info)
        frames = np.empty((len(distinct), 1, len(info.cameras), height, width, 3), np.uint8)
        places = np.stack([np.arange(len(distinct)), np.zeros(len(distinct), np.int64)], axis=1)
        self._read_frames(distinct[:, 0], distinct[:, 1], places, frames)
        images = frames.reshape(-1, height, width, 3)
        codec = choose_codec(images, accepted)
        data, image_bytes = encode_images(codec, images)
        return Observations(
            codec,
            height,
            width,
            image_bytes.reshape(len(distinct), len(info.cameras)),
            data,
            shown[: len(ids)],
            shown[len(ids) :],
        )

    def cached_frames(self, file_id: str, spec: FrameSpec) -> int | None:
        """A descriptor of the cached frames of a file; None without."""
        del file_id, spec
        return None

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

    def _read_frames(
        self,
        files: NDArray[np.int32],
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        requests: list[FrameRequest] = []
        for file in np.unique(files).tolist():
            chosen = np.flatnonzero(files == file)
            entry = self._index.files[file]
            images = entry.layout.images
            requests.append(FrameRequest(entry.identity, images, rows[chosen], places[chosen]))
        self._reader.read(requests, out)

    def close(self) -> None:
        """Release files."""
        self._reader.close()
        self._files.close()
        self._index.close()
