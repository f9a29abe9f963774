"""Times the way of a rollout from a collector's memory into a trainer's, on another machine.

Two network namespaces are the machines, the cable between them is shaped. A turn begins on the
collector's clock when it begins to encode, and ends on the trainer's when all arrays are decoded:
one kernel, one monotonic clock. The trainer is waiting when a turn begins; all processes stay warm.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from network_namespaces import Cable, Machine, two_machines
from peers import PEERS
from processes import PeerFailed, Process
from servers import Checkpointer, running_checkpointers

__all__ = ["RATES", "Pair", "Shaped", "Turn", "machines", "time_transfers"]

RATES: dict[str, float | None] = {"0.1": 0.1e9, "1": 1e9, "10": 10e9, "unshaped": None}
"""Bits per second, by name in Gb/s."""
_SETTLE_S = 0.05
"""From the trainer's word that it is about to wait until it waits; not timed."""
_ADVISED, _LIKE = "penstock_advised", "penstock_raw"
_BESIDE, _DISK = "penstock_beside", "penstock_disk"


@dataclass(frozen=True)
class Turn:
    """One rollout's way.

    Attributes:
        ms: From its arrays to its arrays.
        sent_ms: Until the collector had nothing more to do.
        collector_cpu_ms: CPU time of the collector.
        trainer_cpu_ms: CPU time of the trainer.
        server_cpu_ms: CPU time of the checkpointer, in steps of 10 ms.
        wire_bytes: What the collector's machine has sent.
    """

    ms: float
    sent_ms: float
    collector_cpu_ms: float
    trainer_cpu_ms: float
    server_cpu_ms: float
    wire_bytes: int


@dataclass(frozen=True)
class Pair:
    """A collector and a trainer of one peer.

    Attributes:
        collector: On one machine.
        trainer: On the other one.
        ways: By which they can move rollouts.
    """

    collector: Process
    trainer: Process
    ways: tuple[str, ...]


@dataclass
class Shaped:
    """Two machines with all peers that could be started on them.

    Attributes:
        collector: Machine of the collectors.
        trainer: Machine of the trainers and the checkpointers.
        cable: Between them.
        pairs: By peer.
        servers: Checkpointers by the ways that use them.
        failed: By peer or way: why it does not run, or not any more.
    """

    collector: Machine
    trainer: Machine
    cable: Cable
    pairs: dict[str, Pair] = field(default_factory=dict)
    servers: dict[str, Checkpointer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def shape(self, rate: float | None) -> None:
        """Limit what the cable lets through."""
        self.cable.unshape()
        if rate is not None:
            self.cable.shape(rate)

    def sent_bytes(self, machine: Machine) -> int:
        """What a machine has sent over the cable so far, all headers counted."""
        said = subprocess.run(
            ["ip", "-n", machine.namespace, "-j", "-s", "link", "show", machine.interface],
            check=True,
            capture_output=True,
        ).stdout
        return json.loads(said)[0]["stats64"]["tx"]["bytes"]


@contextmanager
def machines(
    data: Path, logs: Path, store: Path, disk: Path, say: Callable[[str], None]
) -> Generator[Shaped]:
    """Start all peers on two machines; ended with the block.

    Args:
        data: Folder of the rollout.
        logs: Folder for what processes say.
        store: Empty folder for a checkpointer, in shared memory.
        disk: Empty folder for another one, on a disk.
        say: Called with what goes on.
    """
    with ExitStack() as running:
        collector, trainer, cable = running.enter_context(two_machines())
        shaped = Shaped(collector, trainer, cable)
        servers = running.enter_context(running_checkpointers(trainer, (store, disk), logs))
        for way in PEERS["penstock"].transfers:
            shaped.servers[way] = servers[way == _DISK]
        for name, peer in PEERS.items():
            if not peer.transfers:
                continue
            say(f"starting {name}")
            try:
                command = peer.command(data)
                processes = [
                    running.enter_context(
                        Process(
                            machine.command(*command), logs / f"{name}-{role}.log", peer.variables
                        )
                    )
                    for role, machine in (("collector", collector), ("trainer", trainer))
                ]
                for process in processes:
                    process.wait_until_ready()
                pair = Pair(processes[0], processes[1], tuple(peer.transfers))
                _join(shaped, pair)
            except (PeerFailed, RuntimeError) as error:
                shaped.failed[name] = str(error)
                continue
            shaped.pairs[name] = pair
        yield shaped


def _join(shaped: Shaped, pair: Pair) -> None:
    address = shaped.trainer.address
    for way in pair.ways:
        server = shaped.servers.get(way)
        if server is None:
            port = pair.trainer.ask("listen", way=way, address=address)["port"]
        elif way == _BESIDE:
            port = server.port
            pair.trainer.ask("connect", way=way, address=str(server.root), port=0)
        else:
            port = server.port
            pair.trainer.ask("connect", way=way, address="127.0.0.1", port=port)
        pair.collector.ask("connect", way=way, address=address, port=port)


def time_transfers(
    shaped: Shaped, rates: dict[str, int], digest: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Time every way at every rate, in turns.

    Args:
        shaped: The machines.
        rates: How many turns at each of :data:`RATES`; once to warm up comes on top, first.
        digest: Of the rollout.
        say: Called with what goes on.

    Returns:
        ``transfers``: by rate and way, medians and the milliseconds of each turn; ``advice``: by
        rate, what was advised.
    """
    found: dict[str, Any] = {"transfers": {}, "advice": {}}
    shaped.shape(None)
    _advise(shaped)
    for way, pair in _ways(shaped):
        _turn(shaped, pair, way, digest)
    for rate, turns in rates.items():
        shaped.shape(RATES[rate])
        advice = _advise(shaped)
        if advice is not None:
            found["advice"][rate] = advice
        taken: dict[str, list[Turn]] = {}
        for turn in range(turns):
            say(f"transfers at {rate} Gb/s, turn {turn + 1} of {turns}")
            for way, pair in _ways(shaped):
                done = _turn(shaped, pair, way, digest)
                if done is not None:
                    taken.setdefault(way, []).append(done)
        found["transfers"][rate] = {
            way: _figures(done) for way, done in taken.items() if way not in shaped.failed
        }
    shaped.shape(None)
    return found


def _ways(shaped: Shaped) -> Iterator[tuple[str, Pair]]:
    for pair in shaped.pairs.values():
        for way in pair.ways:
            if way not in shaped.failed:
                yield way, pair


def _advise(shaped: Shaped) -> dict[str, Any] | None:
    pair = shaped.pairs.get("penstock")
    if pair is None or _ADVISED in shaped.failed:
        return None
    try:
        return pair.collector.ask("advise", way=_ADVISED, like=_LIKE)
    except PeerFailed as error:
        shaped.failed[_ADVISED] = str(error)
        return None


def _turn(shaped: Shaped, pair: Pair, way: str, digest: int) -> Turn | None:
    server = shaped.servers.get(way)
    try:
        pair.trainer.tell("receive", way=way)
        pair.trainer.hear()
        time.sleep(_SETTLE_S)
        wire, server_s = shaped.sent_bytes(shaped.collector), _cpu_s(server)
        sent = pair.collector.ask("send", way=way)
        received = pair.trainer.hear()
        wire = shaped.sent_bytes(shaped.collector) - wire
    except PeerFailed as error:
        # One of the two may wait for the other for ever: neither is asked again.
        shaped.failed |= dict.fromkeys(pair.ways, f"ended when {way} failed")
        shaped.failed[way] = str(error)
        return None
    if received["digest"] != digest:
        shaped.failed[way] = "what arrives is not what was sent"
        return None
    return Turn(
        ms=1e3 * (received["done_s"] - sent["begun_s"]),
        sent_ms=1e3 * (sent["sent_s"] - sent["begun_s"]),
        collector_cpu_ms=1e3 * sent["cpu_s"],
        trainer_cpu_ms=1e3 * received["cpu_s"],
        server_cpu_ms=1e3 * (_cpu_s(server) - server_s),
        wire_bytes=wire,
    )


def _cpu_s(server: Checkpointer | None) -> float:
    if server is None:
        return 0.0
    with contextlib.suppress(psutil.Error):
        times = server.process.cpu_times()
        return times.user + times.system
    return 0.0


def _figures(turns: list[Turn]) -> dict[str, Any]:
    def median(name: str) -> float:
        return statistics.median(getattr(turn, name) for turn in turns)

    return {
        "ms": median("ms"),
        "sent_ms": median("sent_ms"),
        "collector_cpu_ms": median("collector_cpu_ms"),
        "trainer_cpu_ms": median("trainer_cpu_ms"),
        "server_cpu_ms": statistics.mean(turn.server_cpu_ms for turn in turns),
        "wire_mb": median("wire_bytes") / 1e6,
        "turns_ms": [turn.ms for turn in turns],
    }
