"""The process of one conversion: a request on standard input, progress on standard output.

Each line of output is a JSON object with one key: ``progress``, ``outcome`` or ``error``. The
conversion is cancelled when standard input ends, so it never outlives the service.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from typing import Any

from penstock.allocator import share_heap
from penstock.errors import PenstockError
from penstock.server import configure_logging
from penstock_converter.checks.after import check_made
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.outcome import Outcome, Progress
from penstock_converter.jobs.request import Job
from penstock_converter.serving.worker_protocol import job_from_line

__all__ = ["main"]


def main() -> None:
    """Convert what standard input asks for."""
    configure_logging()
    share_heap()
    job = job_from_line(sys.stdin.readline())
    abandoned = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        abandoned.set()

    threading.Thread(target=watch, daemon=True, name="watch-service").start()
    try:
        outcome = run_job(job, _tell_progress, abandoned.is_set)
    except PenstockError as error:
        _tell("error", {"message": error.message, "reason": error.reason})
        raise SystemExit(1) from error
    faults = _faults(job, outcome)
    _tell("outcome", {**asdict(outcome), "faults": faults})


def _faults(job: Job, outcome: Outcome) -> list[str]:
    """What the checks find in a dataset that was just made."""
    found = check_made(job, outcome)
    if found is None:
        return []
    return [f"{check.name}: {check.first_failures[0]}" for check in found.checks if check.failures]


def _tell_progress(progress: Progress) -> None:
    _tell("progress", asdict(progress))


def _tell(key: str, value: dict[str, Any]) -> None:
    # A service that was killed reads no more; the conversion is about to be cancelled then.
    try:
        sys.stdout.write(json.dumps({key: value}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
