"""A list of recordings into one dataset: a bad one is reported, the others go on."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import structlog

from penstock.disk import is_disk_full
from penstock.errors import Cancelled, DataFault, LimitExceeded, NotFound, PenstockError
from penstock.memory import memory_limit_bytes
from penstock_converter.jobs.joining import join
from penstock_converter.jobs.outcome import (
    BagOutcome,
    Outcome,
    Progress,
    fingerprint,
    write_outcome,
)
from penstock_converter.jobs.request import Job, existing_outcome
from penstock_converter.jobs.stages import Staged, Stages, stage_key
from penstock_converter.jobs.staging import new_folder, publish, staging_folder
from penstock_converter.recordings.discovery import bag_files

__all__ = ["run_job"]

log = structlog.get_logger(__name__)

_REPORT_PERIOD_S = 0.2
_RECORDINGS, _DATASET = "recordings", "dataset"


def run_job(
    job: Job,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Convert, or find that it was done before.

    Recordings are staged one by one and joined when all are. What is staged is kept when the
    conversion is interrupted, and taken up when it is asked for again.

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
                "published, recordings that were complete are kept",
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
        self._shares = [0.0] * len(bags)
        self._images = 0
        self._begun = self._reported = time.monotonic()

    def run(self) -> Outcome:
        job = self._job
        outcome = Outcome(
            fingerprint(job.bags, self._mapping),
            self._progress.bags,
            mapping=self._mapping.model_dump(mode="json"),
        )
        with staging_folder(job.out) as folder:
            stages = Stages(folder / _RECORDINGS)
            keys = [stage_key(bag, self._mapping) for bag in job.bags]
            stages.keep_only(set(keys))
            try:
                staged = [self._stage(stages, index, key) for index, key in enumerate(keys)]
                if any(staged):
                    self._join(folder, staged, outcome)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                # What is incomplete is of no use, and may fill the disk.
                shutil.rmtree(folder / _DATASET, ignore_errors=True)
                if folder.exists() and not stages:
                    shutil.rmtree(folder, ignore_errors=True)
        self._report()
        return outcome

    def _join(self, folder: Path, staged: list[Staged | None], outcome: Outcome) -> None:
        job = self._job
        if job.hdf5 is None:
            self._publish(folder, None, staged, outcome)
            return
        with staging_folder(job.hdf5) as apart:
            self._publish(folder, apart, staged, outcome)
            shutil.rmtree(apart, ignore_errors=True)

    def _publish(
        self, folder: Path, apart: Path | None, staged: list[Staged | None], outcome: Outcome
    ) -> None:
        job = self._job
        dataset = new_folder(folder / _DATASET)
        hdf5 = new_folder(apart / _DATASET) if apart is not None else None
        outcome.frames = join(staged, self._mapping, dataset, hdf5, self._settle)
        outcome.seconds = round(time.monotonic() - self._begun, 3)
        outcome.peak_rss_bytes = _peak_rss_bytes()
        outcome.images = sum(bag.images for bag in outcome.converted)
        write_outcome(dataset, outcome)
        if hdf5 is not None and job.hdf5 is not None:
            write_outcome(hdf5, outcome)
            publish(hdf5, job.hdf5)
        publish(dataset, job.out)

    def _stage(self, stages: Stages, index: int, key: str) -> Staged | None:
        """Convert a recording, unless that was done before the conversion was interrupted."""
        bag, name = self._job.bags[index], self._job.name(index)
        staged = stages.find(key)
        outcome = self._progress.bags[index]
        outcome.state = "running"
        before = self._images
        if staged is None:
            try:
                staged = stages.convert(
                    key,
                    bag,
                    name,
                    self._mapping,
                    memory_bytes=memory_limit_bytes(),
                    on_frame=lambda done, total, images: self._advance(index, done, total, images),
                    cancelled=self._cancelled,
                )
            except Cancelled:
                raise
            except Exception as error:
                self._images = before
                if is_disk_full(error):
                    raise
                self._refuse(index, error)
        else:
            log.info("taken up", bag=name)
        if staged is not None:
            self._progress.bags[index] = staged.outcome
            staged.outcome.bag = name
            for warning in staged.outcome.warnings:
                log.warning("look at this", bag=name, warning=warning)
        self._shares[index] = 1.0
        self._report()
        return staged

    def _settle(self, index: int, first_episode: int, error: DataFault | None) -> None:
        """Note where the episodes of a recording are, or why they are left out after all."""
        if error is None:
            self._progress.bags[index].episode = first_episode
            return
        self._progress.bags[index] = BagOutcome(self._job.name(index))
        told = f"{self._job.bags[index]}: {error.message}"
        self._refuse(index, DataFault(told, reason=error.reason))

    def _refuse(self, index: int, error: Exception) -> None:
        bag, outcome = self._job.bags[index], self._progress.bags[index]
        outcome.state, outcome.frames, outcome.images = "refused", 0, 0
        if isinstance(error, PenstockError):
            # By the name that the report uses; clients need not know where the service keeps it.
            outcome.reason = error.reason
            outcome.error = error.message.replace(str(bag), outcome.bag)
            log.warning("refused", bag=str(bag), reason=error.reason, error=error.message)
        else:
            outcome.reason = "INTERNAL"
            outcome.error = f"{bag}: the converter failed ({type(error).__name__}: {error})"
            log.error("refused", bag=str(bag), reason="INTERNAL", exc_info=error)

    def _advance(self, index: int, done: int, total: int, images: int) -> None:
        self._progress.bags[index].frames = done
        self._images += images
        self._shares[index] = done / total
        # A report names every recording: many of them, fewer reports.
        period_s = _REPORT_PERIOD_S * max(1.0, len(self._sizes) / 1000)
        if time.monotonic() - self._reported >= period_s:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        elapsed = max(self._reported - self._begun, 1e-6)
        progress = self._progress
        done = sum(share * size for share, size in zip(self._shares, self._sizes, strict=True))
        fraction = done / sum(self._sizes)
        frames = sum(bag.frames for bag in progress.bags)
        progress.fraction = fraction
        progress.frames_done = frames
        progress.frames_total = round(frames / fraction) if fraction else 0
        progress.images_per_s = self._images / elapsed
        progress.eta_s = elapsed * (1 - fraction) / fraction if fraction else -1.0
        progress.peak_rss_bytes = _peak_rss_bytes()
        self._on_progress(progress)


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
