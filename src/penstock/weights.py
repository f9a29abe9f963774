"""Weights of transitions: what they may be, and priorities that change."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import InvalidInput

__all__ = ["Priorities", "Weights", "check_weights"]

_REMEMBERED = 64
"""Updates that a draw may lag behind before it looks at every weight again."""


class Priorities:
    """Weights that training changes; a draw looks only at those that changed.

    Safe to use from several threads. A change counts from the next step that is drawn on; batches
    that were fetched ahead were drawn before it.

    Args:
        values: ``(transitions,)``, finite and not negative; copied.

    Raises:
        InvalidInput: The values are none of that.
    """

    def __init__(self, values: ArrayLike) -> None:
        given = np.asarray(values)
        check_weights(given, 0)
        self._values = given.astype(np.float32)
        check_weights(self._values, 0)  # a float64 may be beyond float32
        self._version = 0
        self._changed: deque[NDArray[np.int64]] = deque(maxlen=_REMEMBERED)
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> NDArray[np.float32]:
        """``(transitions,) float32``, a read-only view: what to store for a run that resumes."""
        view = self._values.view()
        view.flags.writeable = False
        return view

    def update(self, transition_ids: ArrayLike, values: ArrayLike) -> None:
        """Give transitions new weights; of an id that comes twice, the last one counts.

        Args:
            transition_ids: ``(n,)`` integers.
            values: ``(n,)``, or one number for all; finite and not negative.

        Raises:
            InvalidInput: An id is out of range, or a value is no weight; nothing has changed.
        """
        ids = np.asarray(transition_ids, np.int64).reshape(-1)
        outside = np.flatnonzero((ids < 0) | (ids >= len(self)))
        if len(outside):
            raise InvalidInput(
                f"transition id {int(ids[outside[0]])}: ids go from 0 to {len(self) - 1}",
                field="transition_ids",
            )
        # Squared TD errors and the like may leave float32, which has no weight beyond.
        with np.errstate(over="ignore"):
            new = np.broadcast_to(np.asarray(values), ids.shape).astype(np.float32)
        check_weights(new, ids)
        with self.lock:
            self._values[ids] = new
            self._version += 1
            self._changed.append(ids)

    def changes_since(self, version: int) -> tuple[int, NDArray[np.int64] | None]:
        """The present version, and ids that changed since ``version``; None: look at all.

        The caller holds :attr:`lock`.
        """
        missed = self._version - version
        if version < 0 or missed > len(self._changed):
            return self._version, None
        recent = list(self._changed)[len(self._changed) - missed :]
        return self._version, np.concatenate([np.empty(0, np.int64), *recent])


Weights = NDArray[Any] | Priorities
"""``(transitions,)`` numbers. A read-only array never changes; any other may at any step."""


def check_weights(values: NDArray[Any], ids: int | NDArray[np.int64]) -> None:
    """Hold weights to being weights.

    Args:
        values: ``(n,)``.
        ids: The transition of each value, or of the first one.

    Raises:
        InvalidInput: A value is no number, not finite or negative; names it and its transition.
    """
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise InvalidInput(
            f"weights have shape {values.shape} and dtype {values.dtype}: expected one number a "
            "transition, (transitions,) float32",
            field="weights",
        )
    # One pass where all is well: a NaN makes both comparisons false.
    if not len(values) or (values.min() >= 0 and values.max() < np.inf):
        return
    wrong = int(np.flatnonzero(~((values >= 0) & (values < np.inf)))[0])
    which = int(ids[wrong]) if isinstance(ids, np.ndarray) else ids + wrong
    raise InvalidInput(
        f"weight {values[wrong]} of transition {which}: expected a finite number, at least 0",
        field="weights",
    )
