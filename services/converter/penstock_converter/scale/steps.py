"""Steps of a datatrove pipeline: stage a share of the recordings; join what was staged."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from penstock.errors import DataFault
from penstock_converter.checks.after import check_made
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.jobs.sharing import stage_share
from penstock_converter.quiet import hush_logs

__all__ = ["JoinShares", "StageShare"]


class StageShare(PipelineStep):
    """Stages the recordings of a task's rank; those that cannot be converted stop no others.

    Args:
        job: What is to be converted.
        token: Stands for this attempt at it.
        memory_bytes: That a task may use.
        folder: Where relative paths of the job begin.
    """

    type, name = "penstock", "stage recordings"

    def __init__(self, job: Job, token: str, memory_bytes: int, folder: Path) -> None:
        super().__init__()
        self.job, self.token, self.memory_bytes, self.folder = job, token, memory_bytes, folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Stage a share; passes on whatever comes in."""
        hush_logs()
        with contextlib.chdir(self.folder), self.track_time(unit="task"):
            for bag, refusal in stage_share(
                self.job, rank, world_size, self.token, memory_bytes=self.memory_bytes
            ):
                self.stat_update("staged" if refusal is None else "refused", unit="recording")
                if refusal is None:
                    logger.info(f"staged {bag}")
                else:
                    logger.warning(f"refused {bag} ({refusal.reason}): {refusal.message}")
        yield from data or ()


class JoinShares(PipelineStep):
    """Joins what the tasks have staged, and converts what they left.

    Args:
        job: What is to be converted.
        token: Stands for this attempt at it.
        folder: Where relative paths of the job begin.
    """

    type, name = "penstock", "join recordings"

    def __init__(self, job: Job, token: str, folder: Path) -> None:
        super().__init__()
        self.job, self.token, self.folder = job, token, folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Publish the dataset; a task that ends without one has failed."""
        del rank, world_size  # one task joins
        hush_logs()
        with contextlib.chdir(self.folder), self.track_time(unit="task"):
            outcome = run_job(self.job, token=self.token)
            found = check_made(self.job, outcome)
        for bag in outcome.refused:
            logger.warning(f"refused {bag.bag} ({bag.reason}): {bag.error}")
        if not outcome.converted:
            raise DataFault(
                f"{self.job.out}: nothing was made: every recording was refused",
                reason="NO_FRAMES",
            )
        for check in found.checks if found is not None else ():
            if check.failures:
                logger.error(f"{self.job.out}: {check.name}: {check.first_failures[0]}")
        self.stat_update("episodes", value=sum(bag.episodes for bag in outcome.converted))
        self.stat_update("frames", value=outcome.frames)
        yield from data or ()
