"""Several recordings at a time, each in its process; one that dies costs its recording alone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import cv2
from pebble import ProcessExpired, ProcessPool

from penstock.allocator import share_heap
from penstock.errors import Cancelled, DataFault
from penstock.memory import memory_limit_bytes
from penstock_converter.jobs.stages import Stages
from penstock_converter.jobs.tasks import Followed, Task, peak_rss_bytes
from penstock_converter.mapping.model import Mapping
from penstock_converter.quiet import hush_logs

__all__ = ["convert_in_pool"]

_LOOK_S = 0.1


@dataclass(frozen=True)
class _Setting:
    """What every process of the pool is told."""

    folder: Path
    mapping: Mapping
    memory_bytes: int
    parent: int
    cancelled: Event
    progress: Any
    """Three numbers for each recording of the job, in shared memory."""


_setting: _Setting | None = None


def convert_in_pool(
    folder: Path,
    tasks: Sequence[Task],
    mapping: Mapping,
    workers: int,
    *,
    on_progress: Callable[[Task, Followed], None],
    on_end: Callable[[Task, Exception | None], None],
    cancelled: Callable[[], bool],
) -> int:
    """Stage recordings.

    Args:
        folder: Of the stages.
        tasks: Which recordings.
        mapping: What becomes what.
        workers: Processes; they share the memory that this one may use.
        on_progress: Told about recordings under way, a few times a second.
        on_end: Told that a recording is staged, or why it is not.
        cancelled: Asked a few times a second.

    Returns:
        Largest memory of the processes, together.

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    # Forking a process with threads is not safe, and would share its memory with each.
    context = multiprocessing.get_context("spawn")
    progress: Any = context.RawArray("q", 3 * (max(task.index for task in tasks) + 1))
    asked = context.Event()
    memory_bytes = memory_limit_bytes() // workers
    setting = _Setting(folder, mapping, memory_bytes, os.getpid(), asked, progress)
    peaks: dict[int, int] = {}
    with ProcessPool(workers, initializer=_prepare, initargs=[setting], context=context) as pool:
        pending: dict[Future[tuple[int, int]], Task] = {
            pool.schedule(_convert, args=[task]): task for task in tasks
        }
        try:
            while pending:
                ended, _ = wait(pending, _LOOK_S, FIRST_COMPLETED)
                if cancelled():
                    asked.set()
                for future in ended:
                    task = pending.pop(future)
                    on_end(task, _result(future, task, peaks))
                for task in pending.values():
                    place = 3 * task.index
                    on_progress(task, Followed(*progress[place : place + 3]))
        except BaseException:
            asked.set()
            for future in pending:
                future.cancel()
            pool.stop()
            raise
    return sum(peaks.values())


def _prepare(setting: _Setting) -> None:
    """Set up a process of the pool."""
    global _setting  # noqa: PLW0603 - a process of the pool serves one conversion
    _setting = setting
    hush_logs()
    share_heap()
    cv2.setNumThreads(1)  # cameras run side by side already


def _convert(task: Task) -> tuple[int, int]:
    """Stage a recording; returns this process and its largest memory."""
    setting = _setting
    assert setting is not None  # noqa: S101 - the pool has prepared this process
    place = 3 * task.index

    def follow(done: int, total: int, images: int) -> None:
        setting.progress[place : place + 3] = (done, total, done * images)

    def cancelled() -> bool:
        # A parent that was killed cannot say so.
        return setting.cancelled.is_set() or os.getppid() != setting.parent

    Stages(setting.folder).convert(
        task.key,
        task.bag,
        task.name,
        setting.mapping,
        memory_bytes=setting.memory_bytes,
        on_frame=follow,
        cancelled=cancelled,
    )
    return os.getpid(), peak_rss_bytes()


def _result(future: Future[tuple[int, int]], task: Task, peaks: dict[int, int]) -> Exception | None:
    """What befell a recording; None if it is staged. Notes the memory of its process."""
    try:
        process, peak = future.result()
        peaks[process] = peak
    except ProcessExpired as expired:
        return _died(task, expired.exitcode)
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return error
    return None


def _died(task: Task, code: int) -> DataFault:
    return DataFault(
        f"{task.bag}: the process that converted it died (exit status {code}): a lack of memory if "
        "it is -9, else a file that breaks a decoder; convert it alone to learn more",
        reason="WORKER_DIED",
    )
