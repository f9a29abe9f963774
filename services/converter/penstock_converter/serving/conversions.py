"""Conversions of the service: a queue of worker processes, watched and remembered."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import structlog
from prometheus_client import Counter, Gauge

from penstock.errors import AlreadyExists, NotFound, Unavailable
from penstock_converter.jobs.outcome import BagOutcome, Progress
from penstock_converter.jobs.request import Job, plan_job
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.serving.roots import resolve_inputs, resolve_output
from penstock_converter.serving.settings import ConverterSettings
from penstock_converter.serving.worker_protocol import request_line

__all__ = ["Conversion", "Conversions"]

log = structlog.get_logger(__name__)

BAGS = Counter("penstock_converter_bags_total", "Recordings by outcome.", ["state"])
FRAMES = Counter("penstock_converter_frames_total", "Frames written.")
DROPPED = Counter("penstock_converter_dropped_frames_total", "Frames left out.")
ENDED = Counter("penstock_converter_conversions_total", "Conversions by how they ended.", ["state"])
RUNNING = Gauge("penstock_converter_running", "Conversions at work.")

State = Literal["queued", "running", "succeeded", "partly_succeeded", "failed", "cancelled"]
_DONE: tuple[State, ...] = ("succeeded", "partly_succeeded")
_ENDED: tuple[State, ...] = (*_DONE, "failed", "cancelled")
_LOOK_S = 1.0
_STOP_S = 10.0


@dataclass(frozen=True)
class Conversion:
    """A conversion as it stands; replaced as a whole at every change."""

    conversion_id: str
    output: str
    fingerprint: str
    state: State
    progress: Progress
    error: str
    created_unix_ms: int
    updated_unix_ms: int

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in _ENDED


@dataclass
class _Entry:
    conversion: Conversion
    job: Job
    cancelled: bool = False
    process: subprocess.Popen[str] | None = None
    changed: int = field(default=0)


class Conversions:
    """Queues, runs and remembers conversions. Safe to call from any thread.

    Args:
        settings: Folders and limits.
    """

    def __init__(self, settings: ConverterSettings) -> None:
        self._settings = settings
        self._entries: dict[str, _Entry] = {}
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(settings.max_running, thread_name_prefix="conversion")
        self._closing = False

    def start(
        self,
        inputs: Sequence[str],
        output: str,
        mapping_yaml: str,
        overrides: Sequence[str] = (),
        *,
        overwrite: bool = False,
        append: bool = False,
    ) -> Conversion:
        """Queue a conversion, or answer with the one that makes the same.

        Raises:
            InvalidInput: A name or the mapping does not hold.
            NotFound: An input matches nothing.
            PermissionDenied: A link leads out of the service's folders.
            AlreadyExists: The output was, or is being, made differently.
        """
        root = self._settings.input_root
        mapping = parse_mapping(mapping_yaml, overrides)
        bags = resolve_inputs(root, inputs, self._settings.max_inputs)
        names = tuple(str(bag.relative_to(root)) for bag in bags)
        out = resolve_output(self._settings.output_root, output)
        job = Job(
            tuple(bags),
            mapping,
            out,
            overwrite=overwrite,
            append=append,
            workers=self._settings.processes,
            names=names,
        )
        digest = job.fingerprint
        present = plan_job(job).present
        with self._changed:
            if self._closing:
                raise Unavailable("the converter is stopping", retry_after_s=1.0)
            for entry in reversed(self._entries.values()):
                known = entry.conversion
                if entry.job.out != out:
                    continue
                if known.fingerprint == digest and (
                    not known.ended or (known.state in _DONE and present is not None)
                ):
                    return known
                if not known.ended:
                    raise AlreadyExists(
                        f"output {output!r} is being made by another conversion, "
                        f"{known.conversion_id}: wait for it or cancel it",
                        reason="OUTPUT_BUSY",
                    )
            self._forget_oldest()
            return self._queue(job, output, digest)

    def get(self, conversion_id: str) -> Conversion:
        """The conversion as it stands.

        Raises:
            NotFound: There is none of that name.
        """
        with self._changed:
            return self._entry(conversion_id).conversion

    def list(self) -> list[Conversion]:
        """All conversions, newest first."""
        with self._changed:
            return [entry.conversion for entry in reversed(self._entries.values())]

    def watch(self, conversion_id: str, active: Callable[[], bool]) -> Generator[Conversion]:
        """The conversion now, at every change, and when it has ended.

        Args:
            conversion_id: Which.
            active: Asked every second whether anybody still watches.

        Raises:
            NotFound: There is none of that name.
        """
        with self._changed:
            entry = self._entry(conversion_id)
        seen = -1
        while active():
            with self._changed:
                if entry.changed == seen:
                    self._changed.wait(_LOOK_S)
                if entry.changed == seen:
                    continue
                seen, conversion = entry.changed, entry.conversion
            yield conversion
            if conversion.ended:
                return

    def cancel(self, conversion_id: str) -> Conversion:
        """Stop a conversion; one that has ended stays as it is.

        Raises:
            NotFound: There is none of that name.
        """
        with self._changed:
            entry = self._entry(conversion_id)
            if not entry.conversion.ended:
                entry.cancelled = True
                if entry.process is None:
                    self._update(entry, state="cancelled")
                else:
                    _close_input(entry.process)
            return entry.conversion

    def close(self) -> None:
        """Cancel everything and wait until no process is left."""
        with self._changed:
            self._closing = True
            names = list(self._entries)
        for name in names:
            self.cancel(name)
        self._pool.shutdown(wait=True)

    def _queue(self, job: Job, output: str, digest: str) -> Conversion:
        now = _now_ms()
        progress = Progress([BagOutcome(name) for name in job.names])
        conversion = Conversion(
            secrets.token_hex(8), output, digest, "queued", progress, "", now, now
        )
        entry = _Entry(conversion, job)
        self._entries[conversion.conversion_id] = entry
        self._pool.submit(self._run, entry)
        log.info("queued", conversion=conversion.conversion_id, output=output, bags=len(job.bags))
        return conversion

    def _run(self, entry: _Entry) -> None:
        """Follow one worker from its start to its end."""
        try:
            with RUNNING.track_inprogress():
                self._follow(entry)
        except Exception as error:  # a thread of the pool would keep it to itself
            log.exception("conversion failed", conversion=entry.conversion.conversion_id)
            with self._changed:
                self._update(entry, state="failed", error=f"the service failed: {error}")
        final = entry.conversion
        ENDED.labels(final.state).inc()
        for bag in final.progress.bags:
            BAGS.labels(bag.state).inc()
            DROPPED.inc(sum(bag.dropped.values()))
        FRAMES.inc(sum(bag.frames for bag in final.progress.bags))
        log.info(
            "ended", conversion=final.conversion_id, state=final.state, error=final.error or None
        )

    def _follow(self, entry: _Entry) -> None:
        with self._changed:
            if entry.conversion.ended:
                return
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock_converter.serving.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # Ctrl-C on the service's terminal is for the service, which then cancels.
                start_new_session=True,
            )
            entry.process = process
            self._update(entry, state="running")
        last: dict[str, Any] = {}
        with process:
            assert process.stdin is not None  # noqa: S101 - both are pipes
            assert process.stdout is not None  # noqa: S101 - same
            # It may be cancelled, which closes its input, before it has begun.
            with contextlib.suppress(BrokenPipeError, ValueError):
                process.stdin.write(request_line(entry.job) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                last = json.loads(line)
                if "progress" in last:
                    with self._changed:
                        self._update(entry, progress=_progress(last["progress"]))
            # Ended with its output, but the pipe to it is still open.
            _close_input(process)
            code = _wait(process)
        with self._changed:
            self._conclude(entry, last, code)

    def _conclude(self, entry: _Entry, last: dict[str, Any], code: int) -> None:
        if "outcome" in last:
            outcome = last["outcome"]
            bags = [BagOutcome(**bag) for bag in outcome["bags"]]
            frames = int(outcome["frames"])
            progress = replace(
                entry.conversion.progress,
                bags=bags,
                frames_done=frames,
                frames_total=frames,
                eta_s=0.0,
                fraction=1.0,
                peak_rss_bytes=int(outcome["peak_rss_bytes"]),
            )
            refused = [bag for bag in bags if bag.state == "refused"]
            state: State = "partly_succeeded" if refused else "succeeded"
            error = ""
            if len(refused) == len(bags):
                state, error = "failed", f"every recording was refused: {refused[0].error}"
            faults: list[str] = outcome["faults"]
            if faults:
                error = f"the dataset was made, but has faults: {'; '.join(faults)}"
            self._update(entry, state=state, error=error, progress=progress)
        elif entry.cancelled:
            self._update(entry, state="cancelled")
        elif "error" in last:
            self._update(entry, state="failed", error=str(last["error"]["message"]))
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            self._update(
                entry,
                state="failed",
                error=f"the process of the conversion ended with {how}: the log of the service "
                "says more; SIGKILL is mostly a lack of memory, lower rosbag.chunk_size",
            )

    def _update(self, entry: _Entry, **changes: Any) -> None:
        """Replace the conversion and wake its watchers; the lock is held."""
        entry.conversion = replace(entry.conversion, updated_unix_ms=_now_ms(), **changes)
        entry.changed += 1
        self._changed.notify_all()

    def _entry(self, conversion_id: str) -> _Entry:
        if conversion_id not in self._entries:
            raise NotFound(
                f"conversion {conversion_id!r} is not known: the service knows those since its "
                "start, list them",
                metadata={"conversion_id": conversion_id},
            )
        return self._entries[conversion_id]

    def _forget_oldest(self) -> None:
        surplus = len(self._entries) + 1 - self._settings.max_conversions
        ended = [name for name, entry in self._entries.items() if entry.conversion.ended]
        for name in ended[: max(surplus, 0)]:
            del self._entries[name]


def _progress(content: dict[str, Any]) -> Progress:
    bags = [BagOutcome(**bag) for bag in content.pop("bags")]
    return Progress(bags, **content)


def _close_input(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _wait(process: subprocess.Popen[str]) -> int:
    try:
        return process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
