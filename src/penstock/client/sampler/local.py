"""Which cached frames of replicas on this machine are open in this process.

A replica tells the path of a unix socket that hands out read-only descriptors of cached files. They
are kept here, the least recently used given up first. What a replica does not hand out, or what
does not fit, is not an error: its rows come over gRPC.
"""

from __future__ import annotations

import logging
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.client.sampler.fleet import Fleet
from penstock.client.sampler.local_socket import ANSWER_S, LocalSocket
from penstock.client.sampler.replica import State
from penstock.client.sampler.transfer import TransferStatistics
from penstock.dataset import DataFile, DatasetInfo
from penstock.errors import Corrupt, Internal, NotFound, PenstockError
from penstock.frame_file import FrameFile, FrameHeader

__all__ = ["LocalFrames"]

log = logging.getLogger(__name__)

MOST_OPEN = 512
_SHARE_OF_LIMIT = 4
ASK_AGAIN_S = 2.0
"""A file that is not handed out may be by then: the replica has it cached at the first touch."""
REST_S = 5.0
"""How long a socket that failed is left alone."""
OTHER_REST_S = 60.0
"""The same for one that is not there, or is another replica's."""
RENEW_S = 60.0
"""How often a file in use is marked as used, so that it stays; one that has gone is asked for."""

_USUAL_REFUSALS = ("NOT_CACHED", "NO_SUCH_FILE")
"""The file is not cached yet, or the replica's newest dataset is without it."""

_Source = tuple[str, int, str]
"""Path of the socket, id of the replica, version of its dataset: another one is another source."""
_Key = tuple[_Source, int, int, int]
"""Source, number of the file in the union, height and width in pixels."""


@dataclass(frozen=True)
class _Seen:
    """A source as the fleet shows it now; ``live`` when a replica with it answers."""

    name: str
    first_local: NDArray[np.int64]
    live: bool


@dataclass(eq=False)
class _Asked:
    """A source that may be asked, by one thread at a time."""

    socket: LocalSocket
    lock: threading.Lock = field(default_factory=threading.Lock)
    rests_until: float = 0.0


@dataclass(eq=False)
class _Open:
    file: FrameFile
    renewed: float


class LocalFrames:
    """Cached frames of this machine; safe to use from several threads.

    Args:
        fleet: The replicas; opened before anything is looked for.
        transfer: Where ``local_faults`` are counted.
        most_open: Files that are kept open; None for 512, or a quarter of what this process may
            have open if that is less. One batch has at most as many besides.
    """

    def __init__(
        self, fleet: Fleet, transfer: TransferStatistics, most_open: int | None = None
    ) -> None:
        self._fleet, self._transfer = fleet, transfer
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE_OF_LIMIT
        self.most_open = max(1, min(MOST_OPEN, limit)) if most_open is None else most_open
        self._lock = threading.Lock()
        self._open: OrderedDict[_Key, _Open] = OrderedDict()
        self._absent: dict[_Key, float] = {}
        self._asked: dict[_Source, _Asked] = {}
        self._said: set[str] = set()
        self._closed = False

    def find(self, files: Iterable[int], height: int, width: int) -> dict[int, FrameFile]:
        """Those of the files whose frames can be read here at that size.

        Whoever reads keeps them open; they are sound as far as their headers tell.
        """
        found: dict[int, FrameFile] = {}
        sources = self._sources()
        if not sources:
            return found
        until = time.monotonic() + ANSWER_S
        for number in files:
            if len(found) >= self.most_open:
                break
            for source, seen in sources.items():
                if seen.first_local[number] < 0:
                    continue
                file = self._find((source, number, height, width), seen, until)
                if file is not None:
                    found[number] = file
                    break
        return found

    def damaged(self, file: FrameFile, error: PenstockError) -> None:
        """Read no more from a file; soon its replica is asked for one that was built anew."""
        with self._lock:
            for key in [key for key, entry in self._open.items() if entry.file is file]:
                del self._open[key]
                self._absent[key] = time.monotonic() + ASK_AGAIN_S
        self._fault(file.name, error.message)

    @property
    def open_files(self) -> int:
        """Files that are kept open."""
        return len(self._open)

    def close(self) -> None:
        """Give up all files and connections."""
        with self._lock:
            self._closed = True
        self._forget(())

    def _sources(self) -> dict[_Source, _Seen]:
        sources: dict[_Source, _Seen] = {}
        with self._fleet.changed:
            for replica in self._fleet.replicas:
                described, holding = replica.described, replica.holding
                if described is None or holding is None:
                    continue
                if not described.local_socket or not described.replica_id:
                    continue
                source = described.local_socket, described.replica_id, holding.version
                live = replica.state is State.LIVE
                if source not in sources or live:
                    sources[source] = _Seen(replica.name, holding.first_local, live)
        self._forget(sources)
        return sources

    def _forget(self, but: Iterable[_Source]) -> None:
        """Drop whatever comes from other sources: replicas that ended, or serve other files now."""
        kept = set(but)
        with self._lock:
            gone = [self._asked.pop(source) for source in set(self._asked) - kept]
            if not gone:
                return
            for key in [key for key in self._open if key[0] not in kept]:
                del self._open[key]
            self._absent = {key: time for key, time in self._absent.items() if key[0] in kept}
        for asked in gone:
            with asked.lock:
                asked.socket.close()

    def _find(self, key: _Key, seen: _Seen, until: float) -> FrameFile | None:
        file = self._kept(key)
        if file is not None or not seen.live:
            return file
        asked = self._to_ask(key, until)
        if asked is None:
            return None
        with asked.lock:
            # Another thread may have asked, or found that nobody answers, while this one waited.
            file = self._kept(key)
            if file is None and self._to_ask(key, until) is asked:
                file = self._ask(key, seen, asked)
        return file

    def _kept(self, key: _Key) -> FrameFile | None:
        now = time.monotonic()
        with self._lock:
            entry = self._open.get(key)
            if entry is None:
                return None
            self._open.move_to_end(key)
            if now - entry.renewed < RENEW_S:
                return entry.file
            entry.renewed = now
        if entry.file.touch():
            return entry.file
        # Evicted, or replaced: holding on to it would hold its space.
        with self._lock:
            if self._open.get(key) is entry:
                del self._open[key]
        return None

    def _to_ask(self, key: _Key, until: float) -> _Asked | None:
        now = time.monotonic()
        with self._lock:
            if self._closed or now >= until or self._absent.get(key, 0.0) > now:
                return None
            path, replica_id, _ = key[0]
            asked = self._asked.get(key[0])
            if asked is None:
                asked = self._asked[key[0]] = _Asked(LocalSocket(path, replica_id))
            return None if asked.rests_until > now else asked

    def _ask(self, key: _Key, seen: _Seen, asked: _Asked) -> FrameFile | None:
        _, number, height, width = key
        union = self._fleet.union
        if union is None:
            raise Internal("cached frames are looked for before the dataset was opened")
        if not asked.socket.is_there():
            asked.rests_until = time.monotonic() + OTHER_REST_S
            log.info("%s is not on this machine: its frames come over the wire", seen.name)
            return None
        wanted = union.info.files[number]
        try:
            descriptor = asked.socket.ask(wanted.file_id, height, width)
        except NotFound as refused:
            self._refused(key, seen, asked, refused)
            return None
        except PenstockError as error:
            asked.rests_until = time.monotonic() + REST_S
            self._fault(f"the local socket of {seen.name}", error.message)
            return None
        try:
            file = FrameFile.open(descriptor, f"{wanted.file_id}, cached by {seen.name}")
            _check(file, wanted, union.info, height, width)
        except Corrupt as error:
            self._set_absent(key)
            self._fault(f"{wanted.file_id}, cached by {seen.name}", error.message)
            return None
        with self._lock:
            if key[0] in self._asked:
                while len(self._open) >= self.most_open:
                    self._open.popitem(last=False)
                self._open[key] = _Open(file, time.monotonic())
        return file

    def _refused(self, key: _Key, seen: _Seen, asked: _Asked, refused: NotFound) -> None:
        if refused.reason == "OTHER_REPLICA":
            # The same path in another container, or of a server that has ended.
            asked.rests_until = time.monotonic() + OTHER_REST_S
            log.info("%s: the socket is another server's: %s", seen.name, refused.message)
            return
        self._set_absent(key)
        if refused.reason not in _USUAL_REFUSALS:
            self._fault(f"the local socket of {seen.name}", refused.message)

    def _set_absent(self, key: _Key) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._absent) >= self.most_open:
                self._absent = {k: until for k, until in self._absent.items() if until > now}
            self._absent[key] = now + ASK_AGAIN_S

    def _fault(self, what: str, why: str) -> None:
        self._transfer.add(local_faults=1)
        if what not in self._said:
            self._said.add(what)
            log.warning("%s cannot be used, its rows come over the wire: %s", what, why)


def _check(file: FrameFile, wanted: DataFile, info: DatasetInfo, height: int, width: int) -> None:
    """Hold a file to what the dataset says of it.

    Raises:
        Corrupt: It holds other frames.
    """
    found: FrameHeader = file.header
    told = found.source.digest, found.cameras, found.height, found.width
    expected = wanted.digest.hex(), info.camera_names, height, width
    # One observation more than actions where the last row has a next one.
    if told != expected or found.observations not in (wanted.rows, wanted.rows + 1):
        raise Corrupt(
            f"{file.name}: holds {found.observations} observations (content, cameras, height, "
            f"width: {told}), expected {wanted.rows} or one more ({expected})"
        )
