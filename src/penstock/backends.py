"""What an embedded service offers, and how one is found by its name.

A backend is the pure part of a service. The service puts it on a wire; an embedded target calls it
in this process. Both run the same code, so both give the same bytes.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import Unsupported
from penstock.targets import Target

__all__ = ["SamplerBackend", "load_backend"]


class SamplerBackend(Protocol):
    """Serves transitions of one dataset; safe to call from several threads."""

    def info(self) -> DatasetInfo:
        """Describe the dataset."""
        ...

    def episodes(self) -> EpisodeTable:
        """All episodes."""
        ...

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fill ``out`` with the transitions ``ids``, row by row in that order.

        Args:
            ids: ``(n,) int64``, each from 0 to ``info().transitions - 1``.
            spec: Size of the images.
            out: A batch of ``n`` rows from :meth:`Batch.allocate`.

        Raises:
            InvalidInput: An id is out of range.
            DataFault: A file cannot be read any more; the message names it.
        """
        ...

    def close(self) -> None:
        """Release files."""
        ...


def load_backend(service: str, target: Target) -> Any:
    """Open the embedded backend of ``service`` for a ``file`` target.

    Raises:
        Unsupported: The service's extra is not installed; the message says how to get it.
    """
    hint = f"install it with: pip install 'penstock[{service}]'"
    found = tuple(entry_points(group="penstock.backends", name=service))
    if not found:
        raise Unsupported(f"{target}: no embedded {service} is installed: {hint}")
    try:
        open_backend = found[0].load()
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"{target}: the embedded {service} needs the module {error.name!r}: {hint}"
        ) from error
    return open_backend(target)
