"""The frame cache as reads see it: what is there, what is being built, and what it was good for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from penstock.errors import Corrupt
from penstock.frame_file import FrameFile
from penstock_sampler import metrics
from penstock_sampler.cache.builder import FrameBuilder
from penstock_sampler.cache.building import Outcome, build_frames
from penstock_sampler.cache.key import FrameKey
from penstock_sampler.cache.store import FrameStore
from penstock_sampler.serving.status import CacheStatus
from penstock_sampler.settings import DataSettings
from penstock_sampler.sources.files import OpenFiles
from penstock_sampler.sources.frames import FrameReader

__all__ = ["FrameCache", "open_cache"]

log = logging.getLogger(__name__)


class FrameCache:
    """Finds cached frames and has the others built; safe to use from several threads.

    Args:
        store: Where they are.
        reader: Reads recordings for the builder, in the builder's own threads.
        codec: Of what is built; ``auto`` chooses for each file.
        threads: Files that are built at a time; 0 builds none.
    """

    def __init__(
        self, store: FrameStore, reader: FrameReader, codec: str = "auto", threads: int = 1
    ) -> None:
        self.store, self._reader, self._codec = store, reader, codec
        self._builder = FrameBuilder(self.build, threads) if threads else None
        self._counting = threading.Lock()
        self._hits, self._misses = 0, 0

    def find(self, key: FrameKey) -> FrameFile | None:
        """The cached frames; None has them built.

        Frames that lie in other files than the recording are not cached: those may change without
        it.
        """
        if not key.recording.self_contained:
            return None
        file = self.store.find(key)
        if file is None and self._builder is not None:
            self._builder.request(key)
        return file

    def damaged(self, key: FrameKey, file: FrameFile, error: Corrupt) -> None:
        """Drop a file that turned out to be damaged, and have it built again."""
        self.store.drop(key, error.message, file)
        if self._builder is not None:
            self._builder.request(key)

    def count(self, hits: int, misses: int) -> None:
        """Count observations that were read from the cache, and from their source."""
        with self._counting:
            self._hits += hits
            self._misses += misses
        metrics.CACHE_HITS.inc(hits)
        metrics.CACHE_MISSES.inc(misses)

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to build; False when that takes longer."""
        return self._builder is None or self._builder.wait(timeout_s)

    def status(self) -> CacheStatus:
        """State of the cache now."""
        cached_files = self.store.measure()
        return CacheStatus(
            hits=self._hits,
            misses=self._misses,
            rebuilds=self.store.rebuilds,
            evictions=self.store.evictions,
            size_bytes=self.store.size_bytes,
            limit_bytes=self.store.limit_bytes,
            cached_files=cached_files,
        )

    def close(self) -> None:
        """Stop building and let go of all files."""
        if self._builder is not None:
            self._builder.close()
        self._reader.close()
        self.store.close()

    def build(
        self,
        key: FrameKey,
        stop: threading.Event,
        progress: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Build one file now, in this thread; see :func:`build_frames`.

        Raises:
            DataFault: The recording cannot be read, or has changed; names it.
            OSError: The folder cannot be written to, or is full.
        """
        return build_frames(
            key, self.store, self._reader, self._codec, stop=stop, progress=progress
        )


def open_cache(settings: DataSettings, files: OpenFiles) -> FrameCache | None:
    """The frame cache that settings ask for; None, said once, where it cannot be.

    Args:
        settings: ``cache_dir``, ``cache_bytes``, ``cache_threads`` and ``codec``.
        files: Open recordings; stay the caller's.
    """
    store = _open_store(settings)
    if store is None:
        return None
    # One read at a time: what builds must leave the disk to who waits for a batch.
    return FrameCache(store, FrameReader(files, 1), settings.codec, settings.cache_threads)


def _open_store(settings: DataSettings) -> FrameStore | None:
    folder = settings.cache_folder
    if folder is None:
        return None
    try:
        return FrameStore(folder, settings.cache_bytes)
    except OSError as error:
        log.warning(
            "frame cache: %s cannot be used (%s): frames are read on the fly; cache_dir names "
            "another folder, or none",
            folder,
            error.strerror,
        )
        return None
