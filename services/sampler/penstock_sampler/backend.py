"""The backend of the sampler: the same code behind ``file://`` targets and behind the service."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import InvalidInput
from penstock.targets import Target
from penstock_sampler.discovery import find_files
from penstock_sampler.files import OpenFiles
from penstock_sampler.frames import FrameRequest, read_frames
from penstock_sampler.index import DatasetIndex, build_index
from penstock_sampler.settings import DataSettings

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
    return Hdf5Backend(index, OpenFiles(settings.max_open_files))


class Hdf5Backend:
    """Reads transitions from HDF5 files; safe to call from several threads.

    Args:
        index: The dataset; closed by :meth:`close`.
        files: Open files; closed by :meth:`close`.
    """

    def __init__(self, index: DatasetIndex, files: OpenFiles) -> None:
        self._index, self._files = index, files

    def info(self) -> DatasetInfo:
        """Describe the dataset."""
        return self._index.info

    def episodes(self) -> EpisodeTable:
        """All episodes."""
        return self._index.episodes

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fill ``out`` with the transitions ``ids``, row by row in that order.

        Raises:
            InvalidInput: An id is out of range, or ``out`` was allocated for something else.
            DataFault: A file cannot be read any more; the message names it.
        """
        index = self._index
        expected = (len(ids), 2, len(index.info.cameras), *spec.resolve(index.info), 3)
        if out.frames.shape != expected:
            raise InvalidInput(
                f"the batch holds frames {out.frames.shape}, these transitions need {expected}",
                field="out",
            )
        located = index.locate(ids)
        first_record = np.array([file.first_record for file in index.files], np.int64)
        base = first_record[located.file]
        records, following = index.scalars.read(base + located.row, base + located.next_row)
        joint_dim = index.info.joint_dim
        out.transition_ids[:] = ids
        out.joint[:] = records[:, :joint_dim]
        out.next_joint[:] = following[:, :joint_dim]
        out.action[:] = records[:, joint_dim:-1]
        out.reward[:] = records[:, -1]
        out.terminal[:] = located.terminal
        if not index.info.cameras:
            return
        for file in np.unique(located.file).tolist():
            rows = np.flatnonzero(located.file == file)
            entry = index.files[file]
            request = FrameRequest(
                entry.identity,
                entry.examined.layout.images,
                rows=np.concatenate([located.row[rows], located.next_row[rows]]),
                places=np.stack([np.tile(rows, 2), np.repeat([0, 1], len(rows))], axis=1),
            )
            read_frames(request, self._files, out.frames)

    def close(self) -> None:
        """Release files."""
        self._files.close()
        self._index.scalars.close()
