"""The clients of the soak: those that are good, those that are not, and those that are killed.

Run as a process of its own, ``python soak_clients.py ROLE TARGET``, one is what its role says and
prints a line for whatever it does.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import grpc
import psutil

from penstock import Plan, SamplerClient, open_sampler
from penstock.client.messages import ACCEPTED_CODECS
from penstock.client.plan_messages import plan_to_message
from penstock.client.sampler.direct_line import Line
from penstock.errors import PenstockError
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

__all__ = ["STALL_S", "Clients"]

STALL_S = 2.0
"""How long the servers wait for a client that does not read."""

_STREAMS = 4
_SIZE = (64, 64)
_PLAN = Plan(batch_size=16, split="all")
_STEADY_PLAN = replace(_PLAN, mixture=(("steady/*", 1.0),))
_CACHED_PLAN = replace(_PLAN, mixture=(("steady/000*", 1.0),))
"""Of one recording, so that whole batches are cached: only such ones come over a direct port."""


def sample_all_day(target: str) -> None:
    """One client that stays, and draws from the recordings that stay."""
    with open_sampler(target, image_size=_SIZE) as client:
        for _ in client.batches(_STEADY_PLAN, prefetch=2):
            _tell("batches")


def come_and_go(target: str) -> None:
    """Open the dataset as it is, draw some batches, close it; half of the time over the wire.

    Half of that by grpcio alone.
    """
    dice = random.Random(1)  # noqa: S311 - dice, no secret
    for number in itertools.count():
        try:
            ways = {"local": bool(number % 2), "direct": number % 4 == 0}
            plan = _CACHED_PLAN if ways["direct"] else _PLAN
            with open_sampler(
                target, image_size=_SIZE, retry_s=20, on_lost="fail", **ways
            ) as client:
                _draw(client, dice.randrange(1, 40), replace(plan, seed=number))
        except PenstockError as error:
            _tell(f"sessions that {error.reason or type(error).__name__} ended")
        _tell("sessions")


def misbehave(target: str) -> None:
    """Stop reading; ask for what nobody can have."""
    address = target.removeprefix("grpc://").split(",")[0]
    request = pb.SampleRequest(
        plan=plan_to_message(_STEADY_PLAN),
        steps=10**6,
        frame_spec=pb.FrameSpec(height_px=_SIZE[0], width_px=_SIZE[1]),
        accepted_codecs=ACCEPTED_CODECS,
    )
    huge = pb.FrameSpec(height_px=4096, width_px=4096)
    with grpc.insecure_channel(address) as channel:
        stub = SamplerServiceStub(channel)
        while True:
            described = stub.GetDataset(pb.GetDatasetRequest())
            version = described.dataset.version
            absurd = (
                {"transition_ids": [0], "dataset_version": "unknown"},
                {"transition_ids": [0], "frame_spec": huge},
                {"transition_ids": range(10**6)},
            )
            for fields in absurd:
                with suppress(grpc.RpcError):
                    list(stub.Fetch(pb.FetchRequest(**{"dataset_version": version, **fields})))
                _tell("absurd requests")
            streams = [stub.Sample(request) for _ in range(_STREAMS)]
            for stream in streams:
                with suppress(grpc.RpcError):
                    next(stream)
            with ExitStack() as stack:
                for wanted in _NONSENSE, _many(version):
                    with suppress(OSError, PenstockError):
                        stack.enter_context(closing(_direct(address, described))).ask(wanted)
                    _tell("absurd requests")
                time.sleep(2 * STALL_S)  # not a read, for longer than a server waits
            for stream in streams:
                stream.cancel()


_NONSENSE = bytes(range(256)) * 256
"""A request that is none."""


def _direct(address: str, described: pb.GetDatasetResponse) -> Line:
    """A connection to a direct port."""
    line = Line((address.rpartition(":")[0], described.direct_port))
    line.connect(described.replica_id)
    return line


def _many(version: str) -> bytes:
    """As many transitions as one request may have."""
    return pb.FetchRequest(
        dataset_version=version,
        transition_ids=[number % 100 for number in range(65_536)],
        frame_spec=pb.FrameSpec(height_px=_SIZE[0], width_px=_SIZE[1]),
        accepted_codecs=ACCEPTED_CODECS,
    ).SerializeToString()


def read_until_killed(target: str) -> None:
    """Draw from all recordings; whatever goes wrong, start again."""
    while True:
        with (
            suppress(PenstockError),
            open_sampler(target, image_size=_SIZE, local=False) as client,
        ):
            _draw(client, 10**9, _PLAN)


_ROLES: dict[str, Callable[[str], None]] = {
    "steady client": sample_all_day,
    "coming and going client": come_and_go,
    "bad client": misbehave,
    "killed client": read_until_killed,
}
_KILLED = "killed client"
_WATCHED = ("steady client", "coming and going client")


def _draw(client: SamplerClient, batches: int, plan: Plan) -> None:
    for _ in client.batches(plan, stop_step=batches, prefetch=2):
        _tell("batches")


def _tell(event: str) -> None:
    print(event, flush=True)


class Clients:
    """Clients, each a process of its own.

    Args:
        target: What they open.
        logs: Folder of what they write to standard error.

    Attributes:
        counts: What they have done, and how often.
    """

    def __init__(self, target: str, logs: Path) -> None:
        self._target, self._logs = target, logs
        self._processes: dict[str, psutil.Popen] = {}
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        for role in _ROLES:
            self._start(role)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def kill_one(self) -> None:
        """Kill the client that is there for it, in the middle of its reading, and start another."""
        self._processes[_KILLED].kill()
        self._processes[_KILLED].wait()
        with self._lock:
            self.counts["killed clients"] += 1
        self._start(_KILLED)

    def watched(self) -> dict[str, psutil.Process]:
        """The good ones.

        Raises:
            RuntimeError: A client has ended that should not.
        """
        for role, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {role} has ended with status {process.returncode}")
        return {role: self._processes[role] for role in _WATCHED}

    def _start(self, role: str) -> None:
        with (self._logs / f"soak-{role.replace(' ', '-')}.log").open("a") as log:
            process = psutil.Popen(
                [sys.executable, __file__, role, self._target],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._processes[role] = process
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def _listen(self, process: psutil.Popen) -> None:
        for line in process.stdout:
            with self._lock:
                self.counts[line.strip()] += 1


if __name__ == "__main__":
    _ROLES[sys.argv[1]](sys.argv[2])
