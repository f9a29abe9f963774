"""What a sampler server sends, by its settings and by how many clients ask.

    python benchmarks/sampler_settings.py processes=1,2 --clients 1 4
    python benchmarks/sampler_settings.py cache_dir=none io_threads=1,2,4

Each combination of the values is a server of its own; they take turns, so that whatever else the
machine does falls on all of them. Clients are processes with four calls in flight, spread over all
processes of the server. They throw away what comes, so that the figures are the server's even where
clients share its cores; with ``--sdk`` they are the SDK's own and decode it. Figures are medians of
the turns: batches a second of all clients together, bytes as sent, and the cores (seconds of CPU
time in a second) that the server and all clients used. A batch has 64 transitions of three cameras.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median

import grpc
from recordings import DATA, DataSet
from rich.console import Console
from rich.table import Table
from serving import Server, cpu_s, fill_cache, running_server

from penstock import Plan, SamplerClient, open_sampler
from penstock.client.messages import ACCEPTED_CODECS
from penstock.targets import Target
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

RECORDINGS = DataSet("settings", "camera", files=4, rows=200)
BATCH, SIDE = 64, 224
PLAN = Plan(batch_size=BATCH, split="all")
CALLS = 4
CONNECT_S = 60.0


@dataclass(frozen=True)
class Turn:
    """Figures of one server in one turn: a second's batches, bytes, and cores used."""

    batches: float
    sent_bytes: float
    server_cores: float
    client_cores: float


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="NAME=VALUE,VALUE,... of the server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--sdk", action="store_true", help="Clients decode what they get.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=3.0)
    parser.add_argument("--client", nargs=3, metavar=("TARGET", "SEED", "SECONDS"), help="internal")
    options = parser.parse_args()
    if options.client:
        target, seed, seconds = options.client
        ask(target, int(seed), float(seconds), sdk=options.sdk)
        return
    names = [setting.partition("=")[0] for setting in options.settings]
    values = [setting.partition("=")[2].split(",") for setting in options.settings]
    RECORDINGS.paths()
    found: dict[tuple[tuple[str, ...], int], list[Turn]] = {}
    with ExitStack() as stack:
        servers = {
            combination: stack.enter_context(served(dict(zip(names, combination, strict=True))))
            for combination in itertools.product(*values)
        }
        for _ in range(options.turns):
            for (combination, server), clients in itertools.product(
                servers.items(), options.clients
            ):
                turn = take_turn(server, clients, options.turn_s, sdk=options.sdk)
                found.setdefault((combination, clients), []).append(turn)
    show(names, found)


@contextmanager
def served(settings: dict[str, str]) -> Iterator[Server]:
    """A server over TCP with all frames cached, unless it is to have no cache."""
    folder = DATA / "caches" / RECORDINGS.name / settings.get("codec", "auto")
    name = "-".join(["settings", *(f"{key}={value}" for key, value in settings.items())])
    settings = {"cache_dir": str(folder), "local_socket": "none", **settings}
    data, log = f"{RECORDINGS.folder}/*.hdf5", DATA / "logs" / f"{name}.log"
    with running_server(data, log, **settings) as server:
        with open_sampler(server.target, image_size=(SIDE, SIDE)) as sampler:
            if settings["cache_dir"] != "none":
                fill_cache(sampler, PLAN, folder)
            for connection in connections(server.target):  # all processes are up
                connection.close()
        yield server


def take_turn(server: Server, clients: int, seconds: float, *, sdk: bool) -> Turn:
    """Have so many clients ask for so long, all at once."""
    command = [sys.executable, __file__, *(["--sdk"] if sdk else [])]
    processes = [
        subprocess.Popen(
            [*command, "--client", server.target, str(seed), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(clients)
    ]
    for process in processes:
        process.stdout.readline()  # it is connected and warm
    before_s, begun_s = cpu_s(server.tree), time.monotonic()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for process in processes]
    server_cores = (cpu_s(server.tree) - before_s) / (time.monotonic() - begun_s)
    for process in processes:
        process.communicate()
    batches, sent_bytes, cores = (sum(column) for column in zip(*answers, strict=True))
    return Turn(batches, sent_bytes, server_cores, cores)


def ask(target: str, seed: int, seconds: float, *, sdk: bool) -> None:
    """Be a client: say when it is ready, wait for a line, ask, print the figures of a second."""
    plan = replace(PLAN, seed=seed)
    with open_sampler(target, image_size=(SIDE, SIDE)) as sampler:
        batches = decoded(plan, sampler) if sdk else thrown_away(plan, sampler, connections(target))
        for _ in range(3):
            next(batches)
        print("ready", flush=True)
        sys.stdin.readline()
        batch_count = sent_bytes = 0
        cpu, begun = time.process_time(), time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            sent_bytes += next(batches)
            batch_count += 1
        cpu = time.process_time() - cpu
        print(json.dumps([each / passed for each in (batch_count, sent_bytes, cpu)]), flush=True)
        batches.close()


def decoded(plan: Plan, sampler: SamplerClient) -> Generator[int]:
    """Bytes as sent of one batch after the other, as a training gets them."""
    before_bytes = sampler.transfer.wire_bytes
    for _ in sampler.batches(plan, prefetch=2):
        now_bytes = sampler.transfer.wire_bytes
        yield now_bytes - before_bytes
        before_bytes = now_bytes


def thrown_away(plan: Plan, sampler: SamplerClient, channels: list[grpc.Channel]) -> Generator[int]:
    """Bytes of one batch after the other, none of them decoded."""
    view, stubs = sampler.view(plan), [SamplerServiceStub(channel) for channel in channels]

    def fetch(ids: list[int], stub: SamplerServiceStub) -> int:
        request = pb.FetchRequest(
            dataset_version=sampler.info.version,
            transition_ids=ids,
            frame_spec=pb.FrameSpec(height_px=SIDE, width_px=SIDE),
            accepted_codecs=ACCEPTED_CODECS,
        )
        return sum(len(response.part.observations.data) for response in stub.Fetch(request))

    waiting: deque[list[Future[int]]] = deque()
    with ThreadPoolExecutor(2 * CALLS) as pool:
        for step in itertools.count():
            ids = view.transition_ids(step).tolist()
            waiting.append(
                [
                    pool.submit(fetch, ids[call::CALLS], stubs[call % len(stubs)])
                    for call in range(CALLS)
                ]
            )
            if step:
                yield sum(part.result() for part in waiting.popleft())


def connections(target: str) -> list[grpc.Channel]:
    """A channel to each process of the server: the kernel picks one for each, by chance."""
    (address,) = Target.parse(target).locations
    found: dict[int, grpc.Channel] = {}
    processes, deadline_s = 1, time.monotonic() + CONNECT_S
    while len(found) < processes:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{len(found)} of {processes} processes answer at {target}")
        channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        described = SamplerServiceStub(channel).GetDataset(pb.GetDatasetRequest())
        processes = described.processes
        if found.setdefault(described.replica_id, channel) is not channel:
            channel.close()
            time.sleep(0.01)
    return list(found.values())


def show(names: list[str], found: dict[tuple[tuple[str, ...], int], list[Turn]]) -> None:
    """Print the medians."""
    table = Table("settings", "clients", "batches/s", "MB/s sent", "server cores", "client cores")
    for (combination, clients), turns in found.items():
        told = " ".join(f"{n}={v}" for n, v in zip(names, combination, strict=True))
        table.add_row(
            told or "default",
            str(clients),
            f"{median(turn.batches for turn in turns):.1f}",
            f"{median(turn.sent_bytes for turn in turns) / 1e6:.0f}",
            f"{median(turn.server_cores for turn in turns):.2f}",
            f"{median(turn.client_cores for turn in turns):.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
