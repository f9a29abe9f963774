"""A share of a job: what one of several tasks stages, on this machine or another."""

from __future__ import annotations

from collections.abc import Iterator

import cv2

from penstock.disk import is_disk_full
from penstock.errors import Cancelled, Internal, PenstockError
from penstock.memory import memory_limit_bytes
from penstock_converter.jobs.request import Job, plan_job
from penstock_converter.jobs.stages import RECORDINGS, Stages, stage_key
from penstock_converter.jobs.staging import staging_folder

__all__ = ["stage_share"]


def stage_share(
    job: Job, rank: int, world: int, token: str, *, memory_bytes: int | None = None
) -> Iterator[tuple[str, PenstockError | None]]:
    """Stage recordings ``rank``, ``rank + world``, ``rank + 2 world``, ... of a job.

    Others may stage at the same time, through a file system that they share. ``run_job`` with the
    same token joins what all have staged, and converts what they left.

    Args:
        job: What is to be converted, the same for all.
        rank: Number of this share, from 0.
        world: How many shares there are.
        token: Stands for this attempt at the job.
        memory_bytes: That this process may use; default: all there is.

    Yields:
        The name of each recording, and why it was refused. Nothing if the job was done before.

    Raises:
        AlreadyExists, InvalidInput: See ``plan_job``.
        Conflict: A process that does not share is writing to the same output.
        OSError: The disk is full, or cannot be written to.
    """
    plan = plan_job(job)
    if plan.present is not None:
        return
    job = plan.job
    cv2.setNumThreads(1)  # cameras run side by side already
    limit = memory_limit_bytes()
    with staging_folder(job.out, shared=True) as folder:
        stages = Stages(folder / RECORDINGS)
        for index in range(rank, len(job.bags), world):
            bag, name = job.bags[index], job.name(index)
            key = stage_key(bag, job.mapping)
            refusal: PenstockError | None = None
            if stages.find(key) is None:
                try:
                    stages.convert(
                        key,
                        bag,
                        name,
                        job.mapping,
                        memory_bytes=min(memory_bytes or limit, limit),
                        on_frame=lambda *_: None,
                        cancelled=lambda: False,
                    )
                except Cancelled:
                    raise
                except Exception as error:
                    if is_disk_full(error):
                        raise
                    refusal = error if isinstance(error, PenstockError) else _fault(bag, error)
                    stages.refuse(key, token, refusal)
            yield name, refusal


def _fault(bag: object, error: Exception) -> Internal:
    return Internal(f"{bag}: the converter failed ({type(error).__name__}: {error})")
