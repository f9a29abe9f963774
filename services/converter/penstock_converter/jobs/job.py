"""A list of recordings into one dataset: a bad one is reported, the others go on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import structlog

from penstock.allocator import give_back_memory
from penstock.disk import is_disk_full
from penstock.errors import (
    Cancelled,
    Conflict,
    DataFault,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PenstockError,
)
from penstock.failpoints import failpoint
from penstock.library_pages import let_go_of_libraries
from penstock.memory import memory_limit_bytes
from penstock_converter.jobs.joining import Grown, Places, join
from penstock_converter.jobs.outcome import (
    BagOutcome,
    Outcome,
    Progress,
    fingerprint,
    write_outcome,
)
from penstock_converter.jobs.request import HDF5_FOLDER, Job, Plan, plan_job
from penstock_converter.jobs.stages import RECORDINGS, Staged, Stages, stage_key
from penstock_converter.jobs.staging import has_leftovers, new_folder, publish, staging_folder
from penstock_converter.jobs.tasks import Followed, Task, peak_rss_bytes, worker_count
from penstock_converter.outputs.card import write_card
from penstock_converter.recordings.discovery import bag_files

__all__ = ["run_job"]

log = structlog.get_logger(__name__)

_REPORT_PERIOD_S = 0.2
_DATASET = "dataset"


def run_job(
    job: Job,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    token: str = "",
) -> Outcome:
    """Convert, or find that it was done before.

    Recordings are staged one by one and joined when all are. What is staged is kept when the
    conversion is interrupted, and taken up when it is asked for again.

    Args:
        job: What is to be converted.
        on_progress: Told where the conversion stands.
        cancelled: Asked before each frame.
        token: Of the shares that were staged before, if any: what they refused is not tried again.

    Returns:
        What became of each recording. Nothing is published if none was converted.

    Raises:
        AlreadyExists, InvalidInput: See ``plan_job``.
        Conflict: Another process is writing to the same output.
        LimitExceeded: The disk is full; nothing is published.
        Cancelled: ``cancelled`` said so; nothing is published.
    """
    if not job.bags:
        raise NotFound("no recordings are given", reason="NO_INPUT")
    plan = plan_job(job)
    if plan.present is not None:
        log.info("reused", out=str(job.out), fingerprint=plan.present.fingerprint)
        _tidy(job)
        return plan.present
    cv2.setNumThreads(1)  # cameras run side by side already
    try:
        return _Run(plan, on_progress, cancelled).run(token)
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
        self, plan: Plan, on_progress: Callable[[Progress], None], cancelled: Callable[[], bool]
    ) -> None:
        self._job, self._previous = plan.job, plan.previous
        job, self._mapping = plan.job, plan.job.mapping
        self._on_progress, self._cancelled = on_progress, cancelled
        self._progress = Progress([self._fresh(index) for index in range(len(job.bags))])
        self._sizes = [sum(f.stat().st_size for f in bag_files(bag)) or 1 for bag in job.bags]
        self._shares = [0.0] * len(job.bags)
        self._staged: list[Staged | None] = [None] * len(job.bags)
        self._others_bytes = 0
        self._begun = self._reported = time.monotonic()

    def run(self, token: str) -> Outcome:
        job = self._job
        with staging_folder(job.out) as folder:
            stages = Stages(folder / RECORDINGS)
            keys = [stage_key(bag, self._mapping) for bag in job.bags]
            refusals = {key: stages.refusal(key, token) for key in keys} if token else {}
            stages.keep_only(set(keys))
            try:
                self._convert(stages, keys, refusals)
                failpoint("converter.staged")
                outcome = self._join(folder) if any(self._staged) else self._outcome({})
                failpoint("converter.published")
                for key in keys:
                    stages.remove(key)
                    failpoint("converter.stage.removed")
                shutil.rmtree(folder, ignore_errors=True)
                failpoint("converter.removed")
            finally:
                # What is incomplete is of no use, and may fill the disk.
                shutil.rmtree(folder / _DATASET, ignore_errors=True)
                if folder.exists() and not stages:
                    shutil.rmtree(folder, ignore_errors=True)
        self._report()
        return outcome

    def _join(self, folder: Path) -> Outcome:
        """Make the dataset of all that is staged, and publish it."""
        # Messages, images and encoders are gone; joining brings tables in their place.
        give_back_memory()
        let_go_of_libraries()
        if self._job.hdf5 is None:
            return self._publish(folder, None)
        with staging_folder(self._job.hdf5) as apart:
            outcome = self._publish(folder, apart)
            shutil.rmtree(apart, ignore_errors=True)
        return outcome

    def _publish(self, folder: Path, apart: Path | None) -> Outcome:
        job = self._job
        dataset = new_folder(folder / _DATASET)
        hdf5 = new_folder(apart / _DATASET) if apart is not None else dataset / HDF5_FOLDER
        grown = None
        if self._previous is not None:
            before = Places(job.out, job.hdf5 or job.out / HDF5_FOLDER)
            episodes = sum(bag.episodes for bag in self._previous.converted)
            grown = Grown(before, episodes, self._previous.writer)
        writer = join(self._staged, self._mapping, Places(dataset, hdf5), self._settle, grown)
        outcome = self._outcome(writer)
        write_outcome(dataset, outcome)
        failpoint("converter.join.reported")
        if self._mapping.outputs.lerobot is not None:
            write_card(dataset, outcome)
        if job.hdf5 is not None:
            write_outcome(hdf5, outcome)
            publish(hdf5, job.hdf5)
            failpoint("converter.publish.hdf5_done")
        publish(dataset, job.out)
        return outcome

    def _convert(
        self, stages: Stages, keys: Sequence[str], refusals: Mapping[str, PenstockError | None]
    ) -> None:
        """Stage all recordings that are not, here or in processes of their own."""
        tasks: list[Task] = []
        for index, key in enumerate(keys):
            task = Task(index, key, self._job.bags[index], self._job.name(index))
            refusal = refusals.get(key)
            if stages.find(key) is not None:
                log.info("taken up", bag=task.name)
                self._ended(task, None, stages)
            elif refusal is not None:
                self._ended(task, refusal, stages)
            else:
                tasks.append(task)
        workers = worker_count(len(tasks), self._job.workers)
        if workers > 1:
            from penstock_converter.jobs.pool import convert_in_pool  # noqa: PLC0415 - asyncio

            self._others_bytes = convert_in_pool(
                stages.folder,
                tasks,
                self._mapping,
                workers,
                on_progress=self._follow,
                on_end=lambda task, error: self._ended(task, error, stages),
                cancelled=self._cancelled,
            )
            return
        for task in tasks:
            self._ended(task, self._convert_here(task, stages), stages)

    def _convert_here(self, task: Task, stages: Stages) -> Exception | None:
        try:
            stages.convert(
                task.key,
                task.bag,
                task.name,
                self._mapping,
                memory_bytes=memory_limit_bytes(),
                on_frame=lambda done, total, images: self._follow(
                    task, Followed(done, total, done * images)
                ),
                cancelled=self._cancelled,
            )
        except Cancelled:
            raise
        except Exception as error:  # noqa: BLE001 - whatever befell it is its outcome
            return error
        return None

    def _follow(self, task: Task, now: Followed) -> None:
        outcome = self._progress.bags[task.index]
        if not now.total:
            return
        outcome.state, outcome.frames, outcome.images = "running", now.done, now.images
        self._shares[task.index] = now.done / now.total
        # A report names every recording: many of them, fewer reports.
        period_s = _REPORT_PERIOD_S * max(1.0, len(self._sizes) / 1000)
        if time.monotonic() - self._reported >= period_s:
            self._report()

    def _ended(self, task: Task, error: Exception | None, stages: Stages) -> None:
        if error is not None:
            if is_disk_full(error):
                raise error
            self._refuse(task.index, error)
        else:
            staged = stages.find(task.key)
            assert staged is not None  # noqa: S101 - it was just published
            self._staged[task.index] = staged
            self._progress.bags[task.index] = staged.outcome
            staged.outcome.bag = task.name
            staged.outcome.identity = self._job.identities[task.index]
            for warning in staged.outcome.warnings:
                log.warning("look at this", bag=task.name, warning=warning)
        self._shares[task.index] = 1.0
        self._report()

    def _outcome(self, writer: dict[str, Any]) -> Outcome:
        """What was done; ``writer`` is what appending needs."""
        before = self._previous.bags if self._previous is not None else []
        bags = [*before, *self._progress.bags]
        converted = [bag for bag in bags if bag.state == "converted"]
        return Outcome(
            fingerprint([bag.identity for bag in bags], self._mapping),
            bags,
            frames=sum(bag.frames for bag in converted),
            images=sum(bag.images for bag in converted),
            seconds=round(time.monotonic() - self._begun, 3),
            peak_rss_bytes=self._peak_bytes(),
            mapping=self._mapping.model_dump(mode="json"),
            writer=writer,
        )

    def _fresh(self, index: int) -> BagOutcome:
        return BagOutcome(self._job.name(index), self._job.identities[index])

    def _settle(self, index: int, first_episode: int, error: DataFault | None) -> None:
        """Note where the episodes of a recording are, or why they are left out after all."""
        if error is None:
            self._progress.bags[index].episode = first_episode
            return
        self._progress.bags[index] = self._fresh(index)
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
        progress.images_per_s = sum(bag.images for bag in progress.bags) / elapsed
        progress.eta_s = elapsed * (1 - fraction) / fraction if fraction else -1.0
        progress.peak_rss_bytes = self._peak_bytes()
        self._on_progress(progress)

    def _peak_bytes(self) -> int:
        """Of this process and of those that it has started."""
        return peak_rss_bytes() + self._others_bytes


def _tidy(job: Job) -> None:
    """Remove what an interrupted conversion left beside a dataset that is complete."""
    for final in (job.out, job.hdf5):
        if final is None or not has_leftovers(final):
            continue
        try:
            with staging_folder(final) as folder:
                stages = Stages(folder / RECORDINGS)
                for bag in job.bags:
                    stages.remove(stage_key(bag, job.mapping))
                shutil.rmtree(folder / _DATASET, ignore_errors=True)
                # Recordings of another conversion may wait there.
                if not stages:
                    shutil.rmtree(folder, ignore_errors=True)
        except (Conflict, InvalidInput) as error:
            log.warning("left as it is", out=str(final), why=error.message)
