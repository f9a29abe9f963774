"""Collections of garbage, as rare as streaming wants them."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["rare_collections"]

_ALLOCATIONS = 100_000
"""Of objects that hold others, from one collection of the youngest to the next."""


@contextmanager
def rare_collections() -> Generator[None]:
    """Look for cycles rarely, and not at all among what is there already.

    Thousands of frames come and go without a cycle among them; looking for some each 700 objects
    takes a quarter of the time of passing files on.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
