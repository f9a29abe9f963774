"""A training run from its data to its last checkpoint. Read :func:`train` from top to bottom."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from penstock import AsyncCheckpointSaver, open_checkpoints, open_sampler
from penstock.errors import DataFault, InvalidInput
from penstock.torch import pinned_allocator
from penstock_trainer.clock import Clock
from penstock_trainer.config import TrainSettings
from penstock_trainer.evaluate import EVALUATION_NAMES
from penstock_trainer.hardware import choose_device
from penstock_trainer.reports import Averages, Progress, ResultFiles
from penstock_trainer.run import Run
from penstock_trainer.run_state import write_model
from penstock_trainer.transitions import Transitions

__all__ = ["RunResult", "train"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        step: Optimiser steps done.
        finished: False if it was asked to stop; its state is saved all the same.
        best_step: Step of the best model, 0 if there was no evaluation.
        best_score: Highest ``val_score`` of the run.
        run_dir: Folder of its results.
    """

    step: int
    finished: bool
    best_step: int
    best_score: float
    run_dir: Path


def train(
    settings: TrainSettings,
    *,
    progress: Callable[[Progress], None] | None = None,
    should_stop: threading.Event | None = None,
) -> RunResult:
    """Train until ``max_timesteps``.

    A sampler or checkpointer that goes away is waited for, as long as its client retries (two
    minutes); batches and checkpoints are the same as if it had stayed.

    Args:
        settings: The run.
        progress: Called at every report, in this thread.
        should_stop: Set it to have the run save its state and return after its present step.

    Raises:
        InvalidInput: Settings do not fit each other, the dataset, or the checkpoint to resume.
        AlreadyExists: The run exists in the checkpointer and ``load_model`` is empty.
        Unavailable: A service stayed away.
        DataFault: The dataset cannot be read, or the run has diverged.
    """
    if not settings.hdf5_path:
        raise InvalidInput(
            "hdf5_path is missing: give --hdf5-path grpc://host:50051 or 'file:///data/*.hdf5'",
            field="hdf5_path",
        )
    on_gpu = choose_device(settings.device).type == "cuda"
    with (
        _torch_threads(settings.threads),
        open_sampler(
            settings.hdf5_path,
            image_size=settings.image_size,
            # From page-locked memory a GPU copies while it trains.
            allocate=pinned_allocator() if on_gpu else None,
        ) as sampler,
        open_checkpoints(settings.checkpoint_target) as store,
    ):
        run = Run.assemble(settings, sampler, store)
        run.write_params()
        columns = (
            "batches_per_s",
            "data_wait_share",
            *run.algorithm.metric_names,
            *EVALUATION_NAMES,
        )
        with (
            ResultFiles(settings.run_dir, columns, run.at.step) as files,
            AsyncCheckpointSaver(settings.checkpoint_target, run=settings.ExpID) as saver,
        ):
            _steps(run, files, saver, progress, should_stop or threading.Event())
            saver.wait()
    at = run.at
    finished = at.step >= settings.max_timesteps
    return RunResult(at.step, finished, at.best_step, at.best_score, settings.run_dir)


def _steps(
    run: Run,
    files: ResultFiles,
    saver: AsyncCheckpointSaver,
    progress: Callable[[Progress], None] | None,
    stop: threading.Event,
) -> None:
    settings, at, transfer = run.settings, run.at, run.sampler.transfer
    end, averages, latest = settings.max_timesteps, Averages(), dict[str, float]()
    clock = Clock(at.seconds, at.step, transfer.wait_s)
    if progress and at.step:  # a watcher sees at once where the run goes on
        progress(Progress(at.step, end, {}, at.best_step))
    batches = run.sampler.batches(run.plan, at.step, stop_step=end, prefetch=settings.prefetch)
    for batch in batches:
        transitions = Transitions.from_batch(batch, run.normaliser, run.device)
        if settings.lr_decay_from < 1:
            run.algorithm.set_learning_rate(settings.lr_at(at.step))
        averages.add(run.algorithm.update(transitions))
        at.step += 1
        last, stopping = at.step == end, stop.is_set()

        evaluation: dict[str, float] = {}
        if last or at.step % settings.eval_freq == 0:
            with clock.paused():
                evaluation = run.evaluate()

        if evaluation or last or stopping or at.step % settings.log_freq == 0:
            means = _finite(averages.take(), at.step)
            row = clock.rates(at.step, transfer.wait_s) | means | evaluation
            files.write(at.step, clock.seconds, row)
            latest |= row
            if progress:
                progress(Progress(at.step, end, dict(latest), at.best_step))

        is_best = bool(evaluation) and at.best_step == at.step
        if is_best or last or stopping or at.step % settings.save_freq == 0:
            state = run.checkpoint(clock.seconds)
            tags = [name for name, holds in (("best", is_best), ("final", last)) if holds]
            for tag in tags:
                write_model(settings.run_dir / f"model_{tag}", state)
            # Copies the state before it returns; the upload goes on beside the next steps.
            saver.save_async(state, at.step, tags=tuple(tags), metrics=evaluation)
        if stopping:
            log.info("stopping", run=settings.ExpID, step=at.step)
            return


@contextlib.contextmanager
def _torch_threads(threads: int) -> Generator[None]:
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finite(metrics: dict[str, float], step: int) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DataFault(
                f"{name} is {value} at step {step}: the run has diverged: lower lr or "
                "reward_scale, and look for outliers with `penstock doctor FILE`",
                reason="DIVERGED",
            )
    return metrics
