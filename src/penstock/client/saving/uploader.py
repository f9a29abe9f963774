"""The process that encodes and stores snapshots, as the saver sees it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

from penstock.checkpoints import CheckpointInfo
from penstock.client.checkpoint import WriterTokens
from penstock.client.saving.buffers import Buffer
from penstock.client.saving.messages import error_from_json, info_from_json, receive, send
from penstock.container import Plan, Profile
from penstock.errors import Cancelled, Internal
from penstock.targets import Target

__all__ = ["Job", "Uploader"]

log = logging.getLogger(__name__)

_MAX_STARTS = 3
"""Times that one snapshot is given to a process; they may be killed for want of memory."""

_END_S = 5.0


@dataclass(slots=True)
class Job:
    """A snapshot that is complete.

    Attributes:
        plan: How it lies in the buffer.
        plan_number: Of the plan, ascending.
        buffer: Where it is.
        tree: JSON of its tree.
        where: A step of the run, or a file.
        tags: Names that will point at the step.
        metrics: Numbers kept beside it.
    """

    plan: Plan
    plan_number: int
    buffer: Buffer
    tree: str
    where: int | Path
    tags: tuple[str, ...]
    metrics: Mapping[str, float]


class Uploader:
    """Starts the process, and starts it again if it dies.

    Args:
        target: Of the store; None for files alone.
        run: Name of the run.
        compress: Profile.
        rebase_every: Checkpoints that share a base, itself included; 1 for none.
        retry_s: How long to wait for a service that is away.
        tokens: Of this writer.
        counts: Counts ``uploader_restarts``.
    """

    def __init__(
        self,
        target: Target | None,
        run: str,
        *,
        compress: Profile,
        rebase_every: int,
        retry_s: float,
        tokens: WriterTokens,
        counts: Counter[str],
    ) -> None:
        self._store, self._run = str(target or ""), run
        self._tokens, self._counts = tokens, counts
        self._told = {
            "target": self._store,
            "run": run,
            "compress": compress,
            "rebase_every": rebase_every,
            "retry_s": retry_s,
        }
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def save(self, job: Job) -> CheckpointInfo | None:
        """Save a snapshot; None for a file.

        Raises:
            PenstockError: As the store refused it, or the process cannot be kept alive.
        """
        if isinstance(job.where, Path) or self._tokens.known(self._store, self._run):
            return self._save(job)
        # Until the run has given this writer a token, nobody else of it may ask for one.
        with self._tokens.hold(self._store, self._run):
            return self._save(job)

    def forget(self, buffer: Buffer) -> None:
        """Let go of a buffer that is no longer used."""
        if buffer.number in self._known_buffers:
            self._known_buffers.discard(buffer.number)
            self._try_send({"kind": "forget", "buffer": buffer.number})

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()

    def _start(self) -> None:
        self._known_plan = 0
        self._known_buffers: set[int] = set()
        self._connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a module of this package
                [sys.executable, "-m", f"{__package__}.uploader_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # The terminal's interrupt is for the training process, which drains.
                start_new_session=True,
            )
        finally:
            theirs.close()
        send(self._connection, self._told)

    def _save(self, job: Job) -> CheckpointInfo | None:
        failure: Exception | None = None
        status = 0
        for _ in range(_MAX_STARTS):
            try:
                return self._ask(job)
            except (EOFError, OSError) as error:
                if self._closed:
                    raise Cancelled(f"{self._run}/{job.where}: saving was given up") from error
                self._end()
                self._counts["uploader_restarts"] += 1
                failure, status = error, self._process.returncode
                log.warning("the uploading process ended with %s, starting another", status)
                self._start()
        raise Internal(
            f"the process that saves {self._run}/{job.where} ended {_MAX_STARTS} times (last with "
            f"{status}; -9 often means that there was no memory)",
            reason="UPLOADER_DIED",
        ) from failure

    def _ask(self, job: Job) -> CheckpointInfo | None:
        with self._lock:
            if self._known_plan != job.plan_number:
                send(self._connection, _plan_message(job))
                self._known_plan = job.plan_number
            if job.buffer.number not in self._known_buffers:
                size = job.buffer.size_bytes
                told = {"kind": "buffer", "buffer": job.buffer.number, "size_bytes": size}
                send(self._connection, told)
                send_handle(self._connection, job.buffer.handle, self._process.pid)
                self._known_buffers.add(job.buffer.number)
            send(self._connection, self._save_message(job))
        answer = receive(self._connection)
        if "error" in answer:
            raise error_from_json(answer["error"])
        if isinstance(job.where, Path):
            return None
        self._tokens.learn(self._store, self._run, answer["fencing_token"])
        return info_from_json(answer["info"])

    def _save_message(self, job: Job) -> dict[str, Any]:
        is_file = isinstance(job.where, Path)
        return {
            "kind": "save",
            "plan": job.plan_number,
            "buffer": job.buffer.number,
            "tree": job.tree,
            "path": str(job.where) if is_file else None,
            "step": None if is_file else job.where,
            "tags": list(job.tags),
            "metrics": dict(job.metrics),
            "fencing_token": self._tokens.known(self._store, self._run),
        }

    def _try_send(self, message: dict[str, Any]) -> None:
        with self._lock:
            try:
                send(self._connection, message)
            except OSError:
                log.debug("the uploading process is gone; the next save starts another")


def _plan_message(job: Job) -> dict[str, Any]:
    return {
        "kind": "plan",
        "plan": job.plan_number,
        "entries": [asdict(entry) for entry in job.plan.entries],
        "storages": [list(storage) for storage in job.plan.storages],
    }
