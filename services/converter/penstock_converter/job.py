"""A list of recordings into one dataset: a bad one is reported, the others go on."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import structlog

from penstock.disk import is_disk_full
from penstock.errors import (
    Cancelled,
    LimitExceeded,
    NotFound,
    PenstockError,
)
from penstock_converter.discovery import bag_files
from penstock_converter.episode import EpisodeSink, convert_episode
from penstock_converter.frames import Frames
from penstock_converter.hdf5 import Hdf5Episode
from penstock_converter.lerobot import LeRobotWriter
from penstock_converter.outcome import BagOutcome, Outcome, Progress, fingerprint, write_outcome
from penstock_converter.request import HDF5_FOLDER, Job, existing_outcome
from penstock_converter.schema import Schema
from penstock_converter.staging import publish, staging_folder

__all__ = ["run_job"]

log = structlog.get_logger(__name__)

_REPORT_PERIOD_S = 0.2
_SCRATCH = ".scratch"


def run_job(
    job: Job,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Convert, or find that it was done before.

    Returns:
        What became of each recording. Nothing is published if none was converted.

    Raises:
        AlreadyExists, InvalidInput: See ``existing_outcome``.
        Conflict: Another process is writing to the same output.
        LimitExceeded: The disk is full; nothing is published.
        Cancelled: ``cancelled`` said so; nothing is published.
    """
    if not job.bags:
        raise NotFound("no recordings are given", reason="NO_INPUT")
    present = existing_outcome(job)
    if present is not None:
        log.info("reused", out=str(job.out), fingerprint=present.fingerprint)
        return present
    cv2.setNumThreads(1)  # cameras run side by side already
    try:
        return _Run(job, on_progress, cancelled).run()
    except PenstockError:
        raise
    except Exception as error:
        if is_disk_full(error):
            folders = " or ".join(str(folder) for folder in (job.out, job.hdf5) if folder)
            raise LimitExceeded(
                f"{folders}: the disk is full: free space there and start again; nothing was "
                "published",
                reason="DISK_FULL",
            ) from error
        raise


class _Run:
    def __init__(
        self, job: Job, on_progress: Callable[[Progress], None], cancelled: Callable[[], bool]
    ) -> None:
        self._job, self._mapping = job, job.mapping
        self._on_progress, self._cancelled = on_progress, cancelled
        bags = [BagOutcome(job.name(index)) for index in range(len(job.bags))]
        self._progress = Progress(bags)
        self._sizes = [sum(f.stat().st_size for f in bag_files(bag)) or 1 for bag in job.bags]
        self._schema = Schema()
        self._frames = self._images = 0
        self._episodes = 0
        self._begun = self._reported = time.monotonic()

    def run(self) -> Outcome:
        job = self._job
        outcome = Outcome(
            fingerprint(job.bags, self._mapping),
            self._progress.bags,
            mapping=self._mapping.model_dump(mode="json"),
        )
        with ExitStack() as stack:
            out = stack.enter_context(staging_folder(job.out))
            apart = stack.enter_context(staging_folder(job.hdf5)) if job.hdf5 else None
            scratch = out / _SCRATCH
            scratch.mkdir()
            hdf5 = apart
            if hdf5 is None and self._mapping.outputs.hdf5 is not None:
                hdf5 = out / HDF5_FOLDER
                hdf5.mkdir()
            writer = None
            if self._mapping.outputs.lerobot is not None:
                writer = LeRobotWriter(out, scratch, self._mapping, self._mapping.outputs.lerobot)
                stack.callback(writer.close)
            for index in range(len(job.bags)):
                self._convert(index, writer, hdf5)
            outcome.frames, outcome.images = self._frames, self._images
            if self._episodes:
                if writer is not None:
                    writer.finish(self._schema)
                _remove(scratch)
                self._publish(outcome, out, apart)
        self._report(1.0)
        return outcome

    def _publish(self, outcome: Outcome, out: Path, apart: Path | None) -> None:
        outcome.seconds = round(time.monotonic() - self._begun, 3)
        outcome.peak_rss_bytes = _peak_rss_bytes()
        write_outcome(out, outcome)
        if apart is not None and self._job.hdf5 is not None:
            write_outcome(apart, outcome)
            publish(apart, self._job.hdf5)
        publish(out, self._job.out)

    def _convert(self, index: int, writer: LeRobotWriter | None, hdf5: Path | None) -> None:
        bag, outcome = self._job.bags[index], self._progress.bags[index]
        outcome.state = "running"
        before = self._frames, self._images
        schema = self._schema.fork()
        try:
            frames = convert_episode(
                bag,
                self._mapping,
                schema,
                self._sinks(bag, writer, hdf5),
                on_frame=lambda done, total, images: self._advance(index, done / total, images),
                cancelled=self._cancelled,
            )
        except Cancelled:
            raise
        except Exception as error:
            self._frames, self._images = before
            if is_disk_full(error) or (writer is not None and writer.joining):
                raise
            _refuse(outcome, bag, error)
        else:
            self._schema = schema
            _accept(outcome, frames, self._episodes)
            self._episodes += 1
            for warning in outcome.warnings:
                log.warning("look at this", bag=outcome.bag, warning=warning)
        self._report((sum(self._sizes[: index + 1])) / sum(self._sizes))

    def _sinks(
        self, bag: Path, writer: LeRobotWriter | None, hdf5: Path | None
    ) -> list[EpisodeSink]:
        sinks: list[EpisodeSink] = []
        if hdf5 is not None and self._mapping.outputs.hdf5 is not None:
            path = hdf5 / f"episode_{self._episodes:06d}.hdf5"
            sinks.append(Hdf5Episode(path, self._mapping, self._mapping.outputs.hdf5, bag.name))
        # Last, so that an episode joins the dataset when nothing else can fail any more.
        if writer is not None:
            sinks.append(writer.episode())
        return sinks

    def _advance(self, index: int, share: float, images: int) -> None:
        self._frames += 1
        self._images += images
        # A report names every recording: many of them, fewer reports.
        period_s = _REPORT_PERIOD_S * max(1.0, len(self._sizes) / 1000)
        if time.monotonic() - self._reported >= period_s:
            done = sum(self._sizes[:index]) + share * self._sizes[index]
            self._report(done / sum(self._sizes))

    def _report(self, fraction: float) -> None:
        self._reported = time.monotonic()
        elapsed = max(self._reported - self._begun, 1e-6)
        progress = self._progress
        progress.fraction = fraction
        progress.frames_done = self._frames
        progress.frames_total = round(self._frames / fraction) if fraction else 0
        progress.images_per_s = self._images / elapsed
        progress.eta_s = elapsed * (1 - fraction) / fraction if fraction else -1.0
        progress.peak_rss_bytes = _peak_rss_bytes()
        self._on_progress(progress)


def _accept(outcome: BagOutcome, frames: Frames, episode: int) -> None:
    outcome.state = "converted"
    outcome.episode = episode
    outcome.frames = frames.count
    outcome.next_observation = frames.observations > frames.count
    outcome.dropped = frames.dropped
    outcome.warnings = list(frames.warnings)


def _refuse(outcome: BagOutcome, bag: Path, error: Exception) -> None:
    outcome.state = "refused"
    if isinstance(error, PenstockError):
        # By the name that the report uses; clients need not know where the service keeps it.
        outcome.reason, outcome.error = error.reason, error.message.replace(str(bag), outcome.bag)
        log.warning("refused", bag=str(bag), reason=error.reason, error=error.message)
    else:
        outcome.reason = "INTERNAL"
        outcome.error = f"{bag}: the converter failed ({type(error).__name__}: {error})"
        log.error("refused", bag=str(bag), reason="INTERNAL", exc_info=error)


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
