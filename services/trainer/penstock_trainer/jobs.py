"""Trainings of a service: one at a time, in order, remembered on disk.

A job is one JSON file in the state folder, replaced as a whole. Jobs that were queued or running
when the service went away are queued again when it comes back, and go on from their last
checkpoint.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import structlog

from penstock.disk import full_disk_named
from penstock.errors import AlreadyExists, InvalidInput, LimitExceeded, NotFound, PenstockError
from penstock_trainer.config import EXP_ID
from penstock_trainer.loop import RunResult
from penstock_trainer.reports import Progress

__all__ = ["Job", "JobQueue", "JobState", "Runner"]

log = structlog.get_logger(__name__)

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})

Runner = Callable[["Job", Callable[[Progress], None], threading.Event], RunResult]
"""Trains one job: reports progress, and stops with its state saved when the event is set."""


@dataclass(frozen=True)
class Job:
    """A training as it stands; every change makes a new one.

    Attributes:
        exp_id: Its name.
        options: As they were asked for.
        state: See ``JobState``.
        step: Optimiser steps done.
        max_steps: Optimiser steps it will do.
        metrics: Latest value of each reported quantity.
        best_step: Step of its best model, 0 before the first.
        error: Why it failed; empty otherwise.
        created_unix_ms: When it was asked for.
        updated_unix_ms: When it changed last.
    """

    exp_id: str
    options: dict[str, str]
    state: JobState = "queued"
    step: int = 0
    max_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    error: str = ""
    created_unix_ms: int = 0
    updated_unix_ms: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED


class JobQueue:
    """Runs jobs in a thread of its own. Safe to use from several threads.

    Args:
        folder: Where jobs are remembered; made if it is not there.
        run: Trains one job.
    """

    def __init__(self, folder: Path, run: Runner) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._run = folder, run
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._stop = threading.Event()
        self._cancelled: set[str] = set()
        self._closing = False
        for job in _read_all(folder):
            unfinished = not job.ended
            self._jobs[job.exp_id] = replace(job, state="queued") if unfinished else job
            if unfinished:
                log.info("training_queued_again", exp_id=job.exp_id, step=job.step)
        self._thread = threading.Thread(target=self._work, name="trainings", daemon=True)
        self._thread.start()

    def submit(self, exp_id: str, options: dict[str, str], max_steps: int) -> Job:
        """Queue a job, or answer with it as it stands if it was queued before.

        One that failed or was cancelled is queued again and goes on from its last checkpoint.

        Raises:
            InvalidInput: The name is none.
            AlreadyExists: It was queued with other options.
            LimitExceeded: The disk is full; the job is not taken.
        """
        if not EXP_ID.fullmatch(exp_id):
            raise InvalidInput(
                f"exp_id is {exp_id!r}: expected a match of {EXP_ID.pattern}", field="exp_id"
            )
        with self._changed:
            known = self._jobs.get(exp_id)
            if known is None:
                now = _now_ms()
                job = Job(exp_id, dict(options), max_steps=max_steps, created_unix_ms=now)
            elif known.options != options:
                differing = sorted(
                    name
                    for name in known.options.keys() | options.keys()
                    if known.options.get(name) != options.get(name)
                )
                raise AlreadyExists(
                    f"training {exp_id!r} exists with other options ({', '.join(differing)} "
                    "differ): choose another ExpID",
                    metadata={"exp_id": exp_id},
                )
            elif known.state in ("failed", "cancelled"):
                job = replace(known, state="queued", error="")
            else:
                return known
            self._cancelled.discard(exp_id)
            return self._put(job)

    def get(self, exp_id: str) -> Job:
        """A job as it stands.

        Raises:
            NotFound: There is none of that name.
        """
        with self._changed:
            if exp_id not in self._jobs:
                raise NotFound(
                    f"no training goes by {exp_id!r}: see `penstock train --on` to start"
                )
            return self._jobs[exp_id]

    def list(self) -> list[Job]:
        """All jobs, newest first."""
        with self._changed:
            jobs = list(self._jobs.values())
        return sorted(jobs, key=lambda job: job.created_unix_ms, reverse=True)

    def cancel(self, exp_id: str) -> Job:
        """Ask a job to stop; one that runs saves its state first.

        Raises:
            NotFound: There is none of that name.
        """
        with self._changed:
            job = self.get(exp_id)
            if job.state == "queued":
                return self._put(replace(job, state="cancelled"))
            if job.state == "running":
                self._cancelled.add(exp_id)
                self._stop.set()
            return job

    def watch(self, exp_id: str, is_wanted: Callable[[], bool]) -> Iterator[Job]:
        """The job now, at every change, and when it has ended.

        Args:
            exp_id: The job.
            is_wanted: Asked about once a second; watching ends when it says no, or when the queue
                is closed.

        Raises:
            NotFound: There is none of that name.
        """
        seen = self.get(exp_id)
        yield seen
        while not seen.ended and is_wanted():
            with self._changed:
                if self._jobs[exp_id] is seen:
                    self._changed.wait(timeout=1.0)  # others' changes wake it too
                now, closing = self._jobs[exp_id], self._closing
            if now is not seen:
                yield now
            seen = now
            if closing:
                return

    def close(self, timeout_s: float) -> None:
        """Have the running job save its state and stop; it goes on when the service is back."""
        with self._changed:
            self._closing = True
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning(
                "training_still_stopping",
                waited_s=timeout_s,
                effect="the run goes on from its last checkpoint when the service is back",
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                job = self._next()
                if self._closing or job is None:
                    return
                self._stop.clear()
                job = self._note(replace(job, state="running"))
            self._finish(job.exp_id, **self._outcome(job))

    def _next(self) -> Job | None:
        queued = [job for job in self._jobs.values() if job.state == "queued"]
        return min(queued, key=lambda job: job.created_unix_ms, default=None)

    def _outcome(self, job: Job) -> dict[str, Any]:
        """Run a job; what its end changes in it."""
        try:
            result = self._run(job, lambda report: self._report(job.exp_id, report), self._stop)
        except PenstockError as error:
            log.warning("training_failed", exp_id=job.exp_id, error=error.message)
            return {"state": "failed", "error": error.message}
        except Exception as error:
            # A fault of ours or of torch (out of memory) ends this job, not the service.
            log.exception("training_failed", exp_id=job.exp_id)
            return {"state": "failed", "error": f"{type(error).__name__}: {error}"}
        if result.finished:
            return {"state": "succeeded", "step": result.step}
        # Stopped by a person, or because the service is closing: then it is to go on later.
        state = "cancelled" if job.exp_id in self._cancelled else "queued"
        return {"state": state, "step": result.step}

    def _report(self, exp_id: str, report: Progress) -> None:
        with self._changed:
            self._put(
                replace(
                    self._jobs[exp_id],
                    step=report.step,
                    max_steps=report.max_steps,
                    metrics=report.metrics,
                    best_step=report.best_step,
                ),
                durable=False,
            )

    def _finish(self, exp_id: str, **changes: Any) -> None:
        with self._changed:
            job = self._note(replace(self._jobs[exp_id], **changes))
        log.info("training_left", exp_id=exp_id, state=job.state, step=job.step)

    def _note(self, job: Job) -> Job:
        """As ``_put``, but a disk that refuses ends neither this job nor those behind it.

        A restart then finds the job as it was before, and goes on from its last checkpoint.
        """
        try:
            return self._put(job)
        except (OSError, LimitExceeded) as error:
            log.error(  # noqa: TRY400 - no bug
                "training_not_remembered", exp_id=job.exp_id, state=job.state, error=str(error)
            )
            return self._put(job, durable=False)

    def _put(self, job: Job, *, durable: bool = True) -> Job:
        job = replace(job, updated_unix_ms=_now_ms())
        if durable:
            _write(self._folder, job)
        self._jobs[job.exp_id] = job
        self._changed.notify_all()
        return job


def _write(folder: Path, job: Job) -> None:
    """Replace the job's file; when this returns it survives a power cut."""
    path = folder / f"{job.exp_id}.json"
    part = path.with_name(f".{path.name}.part")
    with full_disk_named(f"remembering training {job.exp_id} in {folder}"), part.open("w") as file:
        json.dump(asdict(job), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_all(folder: Path) -> Iterator[Job]:
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            job = Job(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            log.error("job_file_skipped", file=str(path), error=str(error))  # noqa: TRY400 - no bug
            continue
        if job.exp_id != path.stem or job.state not in get_args(JobState):
            log.error("job_file_skipped", file=str(path), error="not a job of that name")
            continue
        yield job


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
