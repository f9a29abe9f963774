"""Where a run begins: from scratch, from its own latest checkpoint, or from another one."""

from __future__ import annotations

from pathlib import Path

import structlog

from penstock import CheckpointClient, load_checkpoint
from penstock.errors import AlreadyExists, NotFound
from penstock_trainer.config import TrainSettings
from penstock_trainer.run_state import Checkpoint

__all__ = ["find_start"]

log = structlog.get_logger(__name__)


def find_start(settings: TrainSettings, store: CheckpointClient) -> Checkpoint | None:
    """Load what ``load_model`` names.

    ``latest`` goes on from the newest checkpoint of the run, or starts from scratch if it has
    none. A step or a tag must exist in the run; anything else is a file.

    Returns:
        The checkpoint, or None to start from scratch.

    Raises:
        AlreadyExists: Nothing is to be loaded, but the run has checkpoints that a new start would
            collide with.
        NotFound: The step, tag or file does not exist.
        Corrupt: It is no checkpoint of a training run.
    """
    run, wanted = settings.ExpID, settings.load_model
    taken = store.list(run)
    if not wanted:
        if taken:
            newest = max(entry.step for entry in taken)
            raise AlreadyExists(
                f"run {run!r} has {len(taken)} checkpoints already, the newest of step {newest}: "
                "go on from it with --load-model latest, or choose another --ExpID",
                reason="RUN_EXISTS",
                metadata={"run": run, "step": str(newest)},
            )
        return None
    if wanted == "latest":
        if not taken:
            log.info("starting_from_scratch", run=run, why="the run has no checkpoint yet")
            return None
        checkpoint = Checkpoint.read(store.load(run, "latest"))
    elif wanted.isdigit():
        checkpoint = Checkpoint.read(store.load(run, int(wanted)))
    elif any(wanted in entry.tags for entry in taken):
        checkpoint = Checkpoint.read(store.load(run, wanted))
    elif Path(wanted).is_file():
        checkpoint = Checkpoint.read(load_checkpoint(wanted))
    else:
        tags = sorted({tag for entry in taken for tag in entry.tags})
        raise NotFound(
            f"load_model is {wanted!r}: run {run!r} has no such tag (it has {tags}) and there is "
            "no such file: give latest, a step, a tag or a file"
        )
    log.info("resuming", run=run, step=checkpoint.standing.step, load_model=wanted)
    return checkpoint
