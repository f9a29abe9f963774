"""Episode tables and files for tests of plans, without a dataset behind them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import DataFile, EpisodeTable


def episode_table(
    lengths: Sequence[int] | NDArray[np.int64],
    keys: Sequence[int] | NDArray[np.uint64] | None = None,
    file: Sequence[int] | None = None,
) -> EpisodeTable:
    """Episodes of these lengths; all of file 0, and of random splits, unless told otherwise."""
    count = len(lengths)
    if keys is None:
        keys = np.random.default_rng(1).integers(0, 2**64, count, dtype=np.uint64)
    return EpisodeTable(
        file=np.zeros(count, np.int32) if file is None else np.array(file, np.int32),
        first_row=np.concatenate([[0], np.cumsum(lengths)])[:count].astype(np.int64),
        length=np.array(lengths, np.int32),
        outcome=np.zeros(count, np.uint8),
        split_key=np.array(keys, np.uint64),
    )


def files(*names: str) -> tuple[DataFile, ...]:
    """Files of these ids."""
    return tuple(DataFile(name, 1, 1) for name in names)


def read_only(values: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights that never change."""
    weights = np.array(values, np.float32)
    weights.flags.writeable = False
    return weights
