"""Trainings on the trainer service, followed to their end with a progress bar each."""

from __future__ import annotations

from collections.abc import Mapping

from rich.progress import Progress, TaskID

from bag_to_policy.recipe import ALGORITHMS
from penstock import TrainerClient
from penstock.client.trainer import Training
from penstock.errors import PenstockError

__all__ = ["TrainingFailedError", "follow"]


class TrainingFailedError(PenstockError):
    """A training did not get to its end."""


def follow(
    trainer: TrainerClient,
    runs: Mapping[str, str],
    options: Mapping[str, Mapping[str, object]],
    progress: Progress,
) -> dict[str, Training]:
    """Start trainings, which the service runs one after the other, and wait for all.

    A training that an earlier demo has finished is there at once; one that was interrupted goes on
    from its last checkpoint.

    Args:
        trainer: The service.
        runs: Algorithm to name of the run.
        options: Algorithm to options of the trainer.
        progress: Gets a bar for each run.

    Returns:
        The last report of each training.

    Raises:
        TrainingFailedError: A training failed or was cancelled; says why.
    """
    bars: dict[str, TaskID] = {}
    for algorithm, run in runs.items():
        started = trainer.start(run, options[algorithm])
        bars[algorithm] = progress.add_task(
            f"training {ALGORITHMS[algorithm]}",
            total=started.max_steps or None,
            note=started.state,
        )
    ended: dict[str, Training] = {}
    for algorithm, run in runs.items():
        for report in trainer.watch(run):
            progress.update(
                bars[algorithm],
                completed=report.step,
                total=report.max_steps or None,
                note=_note(report),
            )
            ended[algorithm] = report
        if ended[algorithm].state != "succeeded":
            raise TrainingFailedError(
                f"training {run} {ended[algorithm].state} at step {ended[algorithm].step}: "
                f"{ended[algorithm].error or 'see the log of the trainer'}"
            )
    return ended


def _note(report: Training) -> str:
    rate = report.metrics.get("batches_per_s")
    return report.state if rate is None else f"{rate:.0f} steps/s"
