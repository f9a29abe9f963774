"""The frame cache: frames are resized and encoded once, and read with one call from then on."""

from penstock_sampler.cache.access import FrameAccess
from penstock_sampler.cache.frames import FrameCache, open_cache
from penstock_sampler.cache.key import FrameKey, Recording
from penstock_sampler.cache.store import FrameStore
from penstock_sampler.cache.wanted import Wanted
from penstock_sampler.cache.warming import Warming

__all__ = [
    "FrameAccess",
    "FrameCache",
    "FrameKey",
    "FrameStore",
    "Recording",
    "Wanted",
    "Warming",
    "open_cache",
]
