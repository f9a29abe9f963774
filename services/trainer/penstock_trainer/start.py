"""Where a run begins: from scratch, from its own latest checkpoint, or from another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from penstock import CheckpointClient, load_checkpoint
from penstock.checkpoints import LATEST
from penstock.errors import AlreadyExists, InvalidInput, NotFound
from penstock_trainer.config import TrainSettings
from penstock_trainer.run_state import Checkpoint

__all__ = ["find_start"]

log = structlog.get_logger(__name__)


def find_start(settings: TrainSettings, store: CheckpointClient) -> Checkpoint | None:
    """Load what ``load_model`` names: nothing, ``latest``, a step, a tag, ``RUN:WHICH`` or a file.

    ``latest`` goes on from the newest checkpoint of the run, or starts from scratch if it has
    none. Everything else must exist.

    Returns:
        The checkpoint, or None to start from scratch.

    Raises:
        AlreadyExists: The run has checkpoints of later steps, which a start there would collide
            with.
        NotFound: The step, tag, run or file does not exist.
        Corrupt: It is no checkpoint of a training run.
    """
    run, wanted = settings.ExpID, settings.load_model
    newest = store.latest(run)
    if wanted == LATEST and newest is None:
        log.info("starting_from_scratch", run=run, why="the run has no checkpoint yet")
        return None
    start = Checkpoint.read(_load(run, wanted, store), f"load_model {wanted}") if wanted else None
    step = start.standing.step if start else 0
    if newest is not None and newest.step > step:
        raise AlreadyExists(
            f"run {run!r} has checkpoints up to step {newest.step} already, and this one would "
            f"start at step {step}: go on with --load-model latest, or choose another --ExpID",
            reason="RUN_EXISTS",
            metadata={"run": run, "latest_step": str(newest.step)},
        )
    if start:
        log.info("resuming", run=run, step=step, load_model=wanted)
    return start


def _load(run: str, wanted: str, store: CheckpointClient) -> Any:
    if Path(wanted).is_file():
        return load_checkpoint(wanted)
    source, _, which = wanted.rpartition(":")
    try:
        return store.load(source or run, int(which) if which.isdigit() else which)
    except (InvalidInput, NotFound) as error:
        raise NotFound(
            f"load_model is {wanted!r}: no file goes by that name, and in {store.target} "
            f"{error.message}",
            metadata={"load_model": wanted},
        ) from error
