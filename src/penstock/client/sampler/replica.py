"""One replica as a client knows it: its connection, what it holds, how busy it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import grpc

from penstock.client.channel import open_address
from penstock.client.errors import translated_errors
from penstock.client.messages import (
    dataset_from_message,
    episodes_from_messages,
    files_from_messages,
)
from penstock.client.sampler.direct import DirectPort
from penstock.client.sampler.direct_line import FETCH
from penstock.client.sampler.received import parse_fetched
from penstock.client.sampler.routing import Load
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import Corrupt, PenstockError
from penstock.union import Holding, ReplicaDataset
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

__all__ = ["Connection", "Described", "Replica", "State", "describe", "list_dataset"]

DESCRIBE_S = 10.0
LIST_S = 300.0
CALLS_PER_REPLICA = 1
"""By grpcio, streams side by side bring no more: their threads wait for each other."""
DIRECT_CALLS_PER_REPLICA = 2
"""Over the direct port, one is received while another is decoded."""
_MOST_CALLS = 4
"""With those that are stalled."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 3.0
_NEW_WEIGHT = 0.3
_LAST_PORT = 65_535


class State(Enum):
    """What a client thinks of a replica."""

    ASKING = "asking"
    """Nothing is known of it now; it is being asked."""
    LIVE = "live"
    """It may be asked for what it holds."""
    FAILED = "failed"
    """It did not answer; it is asked again from time to time."""
    LEFT_OUT = "left out"
    """It answers, but takes no part: another form of data, or the same server twice."""


@dataclass(frozen=True)
class Described:
    """An answer of ``GetDataset``.

    Attributes:
        info: The replica's own dataset; files without moments.
        replica_id: Of the server process.
        max_calls: Calls it takes at a time, from all clients.
        max_ids: Transitions it takes in one call.
        local_socket: Where it hands out descriptors of cached frames; empty for nowhere.
        direct_port: Where it answers ``Fetch`` from its cache; 0 for nowhere.
    """

    info: DatasetInfo
    replica_id: int
    max_calls: int
    max_ids: int
    local_socket: str
    direct_port: int


class Connection:
    """A channel that closes when it is given up and the last call on it has ended."""

    def __init__(self, address: str) -> None:
        self._channel: grpc.Channel = open_address(address)
        self.stub = SamplerServiceStub(self._channel)
        self._fetch = self._channel.unary_stream(
            FETCH, pb.FetchRequest.SerializeToString, parse_fetched
        )
        self._lock = threading.Lock()
        self._users = 0
        self._given_up = False

    def fetch(self, request: pb.FetchRequest) -> Any:
        """Call ``Fetch``; gives :class:`Received` parts, and can be cancelled."""
        return self._fetch(request)

    def use(self) -> SamplerServiceStub:
        """Keep the channel open until :meth:`leave`."""
        with self._lock:
            self._users += 1
        return self.stub

    def leave(self) -> None:
        """Undo one :meth:`use`."""
        with self._lock:
            self._users -= 1
        self._close_if_unused()

    def give_up(self) -> None:
        """Close as soon as no call is on it."""
        with self._lock:
            self._given_up = True
        self._close_if_unused()

    def close(self) -> None:
        """Close now; calls on it fail."""
        self._channel.close()

    def _close_if_unused(self) -> None:
        with self._lock:
            unused = self._given_up and not self._users
        if unused:
            self._channel.close()


class Replica:
    """What is known of one address; guarded by the lock of the fleet that has it.

    Attributes:
        address: As gRPC names it.
        name: As a target names it, for messages.
        state: See :class:`State`.
        named: Whether the target's names still stand for it.
        described: Its last answer.
        dataset: What it serves in full, until the union is made.
        holding: What it holds of the union.
        direct: Its direct port; None where it has none.
        error: Why it is not live.
        calls: Parts that it has been asked for and that are not finished.
        stalled: Those of them that have brought nothing for long.
        rows_per_s: What a call brings, a moving average; 0 when unknown.
        rests_until: Time (monotonic) until which it is not asked, because it is busy.
        asked_again: Whether it was asked again since it failed.
        describing: Whether a thread asks it now.
        next_try: Time (monotonic) from which it may be asked again.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        family, _, rest = address.partition(":")
        self.name = f"grpc://{address if family == 'unix' else rest}"
        self.connection = Connection(address)
        self.state = State.ASKING
        self.named = True
        self.described: Described | None = None
        self.dataset: ReplicaDataset | None = None
        self.holding: Holding | None = None
        self.direct: DirectPort | None = None
        self.error: PenstockError | None = None
        self.calls = self.stalled = 0
        self.rows_per_s = 0.0
        self.rests_until = 0.0
        self.asked_again = False
        self.describing = False
        self.next_try = 0.0
        self._tries = 0

    def load(self, now: float) -> Load:
        """How busy it is."""
        most = _MOST_CALLS
        if self.described is not None:
            most = max(1, min(most, self.described.max_calls))
        direct = self.direct is not None and self.direct.carries
        usual = DIRECT_CALLS_PER_REPLICA if direct else CALLS_PER_REPLICA
        free = min(usual - (self.calls - self.stalled), most - self.calls)
        if self.state is not State.LIVE or now < self.rests_until:
            free = 0
        return Load(self.calls, max(0, free), self.rows_per_s, self.stalled > 0)

    def note_rate(self, rows: int, seconds: float) -> None:
        """Take the rate of a finished call into the average."""
        rate = rows / max(seconds, 1e-6)
        if self.rows_per_s:
            rate = _NEW_WEIGHT * rate + (1 - _NEW_WEIGHT) * self.rows_per_s
        self.rows_per_s = rate

    def fail(self, error: PenstockError, now: float) -> None:
        """Ask it for nothing until it has answered again."""
        self.error = error
        if self.state is State.LIVE:
            # At once: a server that was restarted may be there again.
            self._tries, self.next_try = 0, now
            self.state, self.asked_again = State.ASKING, False
            return
        self.state, self.asked_again = State.FAILED, True
        self.next_try = now + min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._tries)
        self._tries = min(self._tries + 1, 16)

    def answered(self) -> None:
        """It is there."""
        self._tries, self.error = 0, None

    def offer_direct(self, described: Described, on_fault: Callable[[], None]) -> None:
        """Use the direct port that a description names from now on."""
        family, _, rest = self.address.partition(":")
        known = self.direct
        wanted = (described.direct_port, described.replica_id)
        if known is not None:
            if (known.port, known.replica_id) == wanted:
                return
            known.close()
            self.direct = None
        if 0 < described.direct_port <= _LAST_PORT and family in ("ipv4", "ipv6"):
            host = rest.rpartition(":")[0].strip("[]")
            self.direct = DirectPort(self.name, host, *wanted, on_fault)

    def give_up(self) -> None:
        """Close its connections as soon as no call is on them."""
        self.connection.give_up()
        if self.direct is not None:
            self.direct.close()

    def close(self) -> None:
        """Close its connections now; calls on gRPC's fail."""
        self.connection.close()
        if self.direct is not None:
            self.direct.close()

    def reconnect(self) -> None:
        """Give up a connection that may hang; calls that still run on it go on."""
        self.connection.give_up()
        self.connection = Connection(self.address)


def describe(replica_name: str, stub: SamplerServiceStub, timeout_s: float) -> Described:
    """Ask a replica what it serves.

    Raises:
        PenstockError: It does not answer, or has nothing to serve.
    """
    with translated_errors(replica_name):
        response = stub.GetDataset(pb.GetDatasetRequest(), timeout=timeout_s)
    return Described(
        dataset_from_message(response.dataset),
        response.replica_id,
        max(1, response.limits.max_calls_in_flight),
        max(1, response.limits.max_ids_per_fetch),
        response.local_socket,
        response.direct_port,
    )


def list_dataset(name: str, stub: SamplerServiceStub, info: DatasetInfo) -> ReplicaDataset:
    """All files with their moments, and the episode table, of the version that was described.

    Raises:
        Conflict: The replica serves another version by now.
        Corrupt: What it sends is not what it described.
        PenstockError: It does not answer.
    """
    request = pb.ListFilesRequest(dataset_version=info.version)
    with translated_errors(name):
        files = files_from_messages(
            _bounded(stub.ListFiles(request, timeout=LIST_S), name, len(info.files))
        )
    if [file.file_id for file in files] != [file.file_id for file in info.files]:
        raise Corrupt(f"{name}: the list of files is not that of the dataset it describes")
    whole = replace(info, files=files)
    return ReplicaDataset(name, whole, _list_episodes(name, stub, info))


def _list_episodes(name: str, stub: SamplerServiceStub, info: DatasetInfo) -> EpisodeTable:
    def columns() -> Iterator[pb.EpisodeColumns]:
        rows = 0
        request = pb.ListEpisodesRequest(dataset_version=info.version)
        for message in stub.ListEpisodes(request, timeout=LIST_S):
            rows += len(message.episodes.length)
            if rows > info.episodes:
                raise Corrupt(f"{name}: more than the {info.episodes} episodes it describes arrive")
            yield message.episodes

    with translated_errors(name):
        try:
            table = episodes_from_messages(columns())
        except (OverflowError, ValueError) as error:
            raise Corrupt(f"{name}: its episode table is out of range: {error}") from error
    lengths = {len(table.file), len(table.first_row), len(table.outcome), len(table.split_key)}
    if lengths != {info.episodes} or len(table) != info.episodes:
        raise Corrupt(
            f"{name}: columns of {sorted(lengths)} episodes arrive, {info.episodes} are described"
        )
    return table


def _bounded(
    messages: Iterable[pb.ListFilesResponse], name: str, most: int
) -> Iterator[pb.ListFilesResponse]:
    """Pass messages on as long as they hold no more files than were described."""
    files = 0
    for message in messages:
        files += len(message.files)
        if files > most:
            raise Corrupt(f"{name}: more than the {most} files it describes arrive")
        yield message
