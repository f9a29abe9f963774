"""What ``penstock status`` shows: the health of servers, and each replica of a sampler."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from penstock.client.health import check_health
from penstock.client.sampler_status import ReplicaStatus, SamplerStatus, rates
from penstock.errors import InvalidInput, PenstockError
from penstock.targets import Target

__all__ = ["Report", "ServerReport", "report_status", "show", "to_json"]

_SAMPLER = "penstock.v1.SamplerService"
_MIB = 1 << 20
_FAST_S = 0.2
"""Between the two looks of a single report: long enough for a rate."""


@dataclass(frozen=True)
class ServerReport:
    """One target of the command line.

    Attributes:
        target: As it was written.
        status: ``SERVING``, another status of the health service, ``away`` or ``invalid``.
        services: Full names of Penstock's services there.
        error: Why there is no answer.
        replicas: Of a sampler.
        rates: Transitions and bytes a second by ``replica_id``.
    """

    target: str
    status: str
    services: tuple[str, ...] = ()
    error: str = ""
    replicas: tuple[ReplicaStatus, ...] = ()
    rates: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])

    @property
    def healthy(self) -> bool:
        """Whether the server, and every replica of it, takes calls."""
        return self.status == "SERVING" and not any(replica.error for replica in self.replicas)


@dataclass
class Report:
    """Looks at targets again and again, and keeps what that needs.

    Args:
        targets: As written on the command line.
        timeout_s: Seconds that each server has to answer.
    """

    targets: Sequence[str]
    timeout_s: float
    _samplers: dict[str, SamplerStatus] = field(default_factory=dict[str, SamplerStatus])
    _before: dict[str, tuple[ReplicaStatus, ...]] = field(
        default_factory=dict[str, tuple[ReplicaStatus, ...]]
    )

    def look(self) -> list[ServerReport]:
        """The state of every target now; rates are those since the look before."""
        return [self._look(text) for text in self.targets]

    def close(self) -> None:
        """Close the connections."""
        for sampler in self._samplers.values():
            sampler.close()

    def _look(self, text: str) -> ServerReport:
        try:
            target = Target.parse(text)
            found = check_health(target, self.timeout_s)
        except PenstockError as error:
            what = "invalid" if isinstance(error, InvalidInput) else "away"
            return ServerReport(text, what, error=error.message)
        own = tuple(name for name in found.services if name.startswith("penstock."))
        report = ServerReport(text, found.status, own)
        if _SAMPLER not in own:
            return report
        sampler = self._samplers.setdefault(text, SamplerStatus(target, self.timeout_s))
        try:
            replicas = tuple(sampler.ask())
        except PenstockError as error:
            return replace(report, error=error.message)
        earlier, self._before[text] = self._before.get(text, ()), replicas
        return replace(report, replicas=replicas, rates=rates(earlier, replicas))


def report_status(
    targets: Sequence[str], timeout_s: float, *, watch_s: float | None, as_json: bool
) -> bool:
    """Print the state of targets; returns whether all of them are well.

    Args:
        targets: As written on the command line.
        timeout_s: Seconds that each server has to answer.
        watch_s: Seconds between two looks, until interrupted; None looks once.
        as_json: One JSON document a look, in place of tables.
    """
    report = Report(targets, timeout_s)
    console = Console()
    with contextlib.closing(report):
        found = report.look()
        if watch_s is None:
            if any(server.replicas for server in found):
                time.sleep(_FAST_S)
                found = report.look()
            _print(console, found, as_json=as_json)
            return all(server.healthy for server in found)
        with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
            live = None if as_json else stack.enter_context(Live(console=console))
            while True:
                if live is None:
                    _print(console, found, as_json=True)
                else:
                    live.update(show(found), refresh=True)
                time.sleep(watch_s)
                found = report.look()
        return all(server.healthy for server in found)


def to_json(found: Sequence[ServerReport]) -> str:
    """The reports as one line of JSON; ids are strings, since they need all 64 bits."""
    servers: list[dict[str, Any]] = []
    for server in found:
        fields = asdict(server)
        speeds = fields.pop("rates")
        fields["healthy"] = server.healthy
        for replica in fields["replicas"]:
            transitions, sent_bytes = speeds.get(replica["replica_id"], (0.0, 0.0))
            replica["transitions_per_s"], replica["bytes_per_s"] = transitions, sent_bytes
            replica["replica_id"] = str(replica["replica_id"])
            del replica["asked_s"]
        servers.append(fields)
    return json.dumps(servers)


def show(found: Sequence[ServerReport]) -> Group:
    """The reports as tables."""
    servers = Table("target", "status", "services")
    for server in found:
        color = "green" if server.status == "SERVING" else "red"
        what = escape(server.error) if server.error else ", ".join(server.services)
        servers.add_row(escape(server.target), f"[{color}]{server.status}[/{color}]", what)
    samplers = [_replicas(server) for server in found if server.replicas]
    return Group(servers, *samplers)


def _print(console: Console, found: Sequence[ServerReport], *, as_json: bool) -> None:
    if as_json:
        console.file.write(to_json(found) + "\n")
        console.file.flush()
    else:
        console.print(show(found))


def _replicas(server: ServerReport) -> Table:
    table = Table(
        *("replica", "version", "files", "sent", "share", "MB/s", "hits", "rebuilt"),
        *("p50/p99 ms", "calls", "local", "MiB"),
        title=escape(server.target),
        title_justify="left",
    )
    total = sum(replica.transitions for replica in server.replicas)
    for replica in server.replicas:
        address = escape(replica.address.partition(":")[2])
        if replica.error:
            table.add_row(address, f"[red]away[/red] {escape(replica.error)}")
            continue
        _, speed = server.rates.get(replica.replica_id, (0.0, 0.0))
        refused = f" [yellow]-{replica.refused_files}[/yellow]" if replica.refused_files else ""
        hits = replica.hit_rate
        table.add_row(
            f"{address} [dim]{replica.replica_id:016x}[/dim]",
            replica.version[:8],
            f"{replica.files}{refused}",
            str(replica.transitions),
            f"{replica.transitions / total:.0%}" if total else "-",
            f"{speed / 1e6:.1f}",
            "-" if hits is None else f"{hits:.0%}",
            str(replica.cache_rebuilds),
            f"{replica.fetch_p50_s * 1e3:.1f}/{replica.fetch_p99_s * 1e3:.1f}",
            str(replica.calls_in_flight),
            str(replica.local_descriptors),
            str(replica.resident_bytes // _MIB),
        )
    return table
