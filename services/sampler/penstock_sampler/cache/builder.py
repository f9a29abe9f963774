"""Building in the background, on first touch, at low priority."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakSet

from penstock.allocator import give_back_memory
from penstock.disk import is_disk_full
from penstock.errors import DataFault, PenstockError
from penstock_sampler.cache.building import Outcome
from penstock_sampler.cache.key import FrameKey
from penstock_sampler.forking import reset_after_fork

__all__ = ["FrameBuilder"]

log = logging.getLogger(__name__)

_LONGEST_QUEUE = 4096
_RETRY_S = {Outcome.ELSEWHERE: 2.0, Outcome.THERE: 2.0, Outcome.NO_ROOM: 60.0}
_FAULT_RETRY_S = 60.0
_DISK_RETRY_S = 600.0
"""Longer: the whole recording may have been read before the disk turned out to be full."""
_NICENESS = 10


class FrameBuilder:
    """Builds what is asked for, one after the other; safe to use from several threads.

    Threads are there only while there is work.

    Args:
        build: Builds one file; looks at the event it is given, and ends soon when it is set.
        threads: Files that are built at a time.
    """

    def __init__(self, build: Callable[[FrameKey, threading.Event], Outcome], threads: int) -> None:
        self._build, self._most_threads = build, threads
        self.reset()
        reset_after_fork(self)
        _builders.add(self)

    def reset(self) -> None:
        """Begin without threads and work."""
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._queue: OrderedDict[str, FrameKey] = OrderedDict()
        self._building: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._threads: set[threading.Thread] = set()
        self._said: set[str] = set()

    def request(self, key: FrameKey) -> None:
        """Have a file built, unless it is about to be, or could not be a short while ago."""
        name = key.name
        with self._changed:
            if (
                self._stop.is_set()
                or name in self._queue
                or name in self._building
                or len(self._queue) >= _LONGEST_QUEUE
                or self._not_before.get(name, 0.0) > time.monotonic()
            ):
                return
            self._queue[name] = key
            if len(self._threads) < self._most_threads:
                thread = threading.Thread(target=self._run, name="penstock-cache", daemon=True)
                self._threads.add(thread)
                thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to build; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._building, timeout_s)

    def close(self) -> None:
        """Stop building; what is unfinished is removed."""
        with self._changed:
            self._stop.set()
            self._queue.clear()
            threads = tuple(self._threads)
        for thread in threads:
            thread.join()

    def _run(self) -> None:
        # Linux gives threads priorities of their own; elsewhere building competes as an equal.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._changed:
                if not self._queue:
                    self._leave()
                    break
                name, key = self._queue.popitem(last=False)
                self._building.add(name)
            retry_s, alive = _FAULT_RETRY_S, False
            try:
                retry_s = self._try(key)
                alive = True
            finally:
                with self._changed:
                    self._building.discard(name)
                    if retry_s:
                        self._not_before[name] = time.monotonic() + retry_s
                    if not alive:  # its traceback is shown; the next request starts another thread
                        self._leave()
                    self._changed.notify_all()
        give_back_memory()

    def _leave(self) -> None:
        self._threads.discard(threading.current_thread())
        self._changed.notify_all()

    def _try(self, key: FrameKey) -> float:
        """Build one file and say what is worth saying; returns when it may be asked for again."""
        path = key.recording.identity.path
        try:
            outcome = self._build(key, self._stop)
        except DataFault as error:
            self._say(str(path), f"its frames are not cached: {error.message}")
            return _FAULT_RETRY_S
        except (OSError, PenstockError) as error:
            what = "the disk is full" if is_disk_full(error) else str(error)
            self._say("disk", f"{path} and what follows is not cached, but read on the fly: {what}")
            return _DISK_RETRY_S
        if outcome is Outcome.NO_ROOM:
            self._say(
                "room",
                f"{path} and what follows is not cached, but read on the fly: there is no room "
                "(cache_bytes sets the limit)",
            )
        elif outcome is Outcome.BUILT:
            log.info("%s: its frames are cached at %dx%d", path, key.height, key.width)
        return _RETRY_S.get(outcome, 0.0)

    def _say(self, subject: str, message: str) -> None:
        with self._changed:
            known = subject in self._said
            self._said.add(subject)
        if not known:
            log.warning("frame cache: %s", message)


_builders: WeakSet[FrameBuilder] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """End threads before the interpreter goes away below them."""
    for builder in tuple(_builders):
        builder.close()
