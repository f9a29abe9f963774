"""Commands of the trainer: ``penstock train`` and ``penstock serve trainer``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from penstock.config import settings_options
from penstock.errors import PenstockError
from penstock_trainer.config import TrainerSettings, TrainSettings

__all__ = ["serve", "train"]

_SHOWN = ("val_score", "critic_loss", "action_loss", "batches_per_s", "data_wait_share")


@click.command(
    "train", context_settings={"token_normalize_func": lambda name: name.replace("_", "-")}
)
@click.option("--on", "service", metavar="TARGET", help="Train on this trainer service instead.")
@settings_options(TrainSettings)
def train(settings: TrainSettings, service: str | None) -> None:
    """Train a policy from recorded transitions.

    Ctrl-C saves the state and stops; the same command with --load-model latest goes on. With --on
    the service trains, and Ctrl-C only stops watching.

    \b
    Examples:
      penstock train --hdf5-path 'file:///data/*.hdf5' --ExpID reach-1 --max-timesteps 20000
      penstock train --hdf5-path grpc://localhost:50051 --checkpoints grpc://localhost:50053
      penstock train --hdf5-path grpc://localhost:50051 --ExpID reach-1 --load-model latest
      penstock train --on grpc://localhost:50052 --ExpID reach-2 --algo bc --batch-size 64
    """
    console = Console(stderr=True)
    if service is not None:
        _watch(settings, service, console)
        return
    # Loaded here: torch takes seconds, and --help needs none of it.
    from penstock.server import configure_logging
    from penstock_trainer.loop import train as run
    from penstock_trainer.reports import Progress as Report

    configure_logging("warning")
    with _bar(console) as (bar, task), _stop_on_signal(console) as stop:

        def show(report: Report) -> None:
            _show(bar, task, report.step, report.max_steps, report.metrics)

        result = run(settings, progress=show, should_stop=stop)
    if not result.finished:
        console.print(f"Stopped at step {result.step}; go on with --load-model latest.")
        raise SystemExit(130)
    best = f", best model of step {result.best_step}" if result.best_step else ""
    console.print(f"Trained {result.step} steps{best}. Results: {result.run_dir}")


@click.command("trainer")
@settings_options(TrainerSettings)
def serve(settings: TrainerSettings) -> None:
    """Run trainings that are asked for over gRPC, one after the other.

    A training that is under way when the service stops goes on when it is back.

    \b
    Examples:
      penstock serve trainer --port 50052 --state-dir /var/lib/penstock/trainer
      penstock serve trainer --hdf5-path grpc://sampler:50051 --checkpoints grpc://checkpointer:50053
    """
    from penstock.server import configure_logging
    from penstock.server import serve as serve_until_signal
    from penstock_trainer.service import TrainerService

    configure_logging(settings.log_level, settings.log_format)
    service = TrainerService(settings)
    serve_until_signal("trainer", settings, service.register, on_drain=service.drain)


def _watch(settings: TrainSettings, service: str, console: Console) -> None:
    """Submit the options that were given, and show the run until it has ended."""
    from penstock import open_trainer

    given = settings.model_fields_set - {"ExpID"}
    options = {name: _text(getattr(settings, name)) for name in sorted(given)}
    exp_id = settings.ExpID
    with open_trainer(service) as trainer:
        training = trainer.start(exp_id, options)
        try:
            with _bar(console) as (bar, task):
                for training in trainer.watch(exp_id):
                    _show(bar, task, training.step, training.max_steps, training.metrics)
        except KeyboardInterrupt:
            console.print(f"The training {exp_id} goes on; the same command watches it again.")
            raise SystemExit(130) from None
    if training.state != "succeeded":
        raise PenstockError(
            f"training {exp_id} {training.state} at step {training.step}: "
            f"{training.error or 'the same command goes on with it'}"
        )
    console.print(f"Trained {training.step} steps.")


def _text(value: object) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


@contextmanager
def _bar(console: Console) -> Generator[tuple[Progress, TaskID]]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
        console=console,
    ) as bar:
        yield bar, bar.add_task("training", total=None, metrics="")


def _show(bar: Progress, task: TaskID, step: int, end: int, metrics: dict[str, float]) -> None:
    shown = "  ".join(f"{name} {metrics[name]:.3g}" for name in _SHOWN if name in metrics)
    bar.update(task, completed=step, total=end or None, metrics=shown)


@contextmanager
def _stop_on_signal(console: Console) -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the program at once."""
    stop = threading.Event()
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, before[number])
        console.print("Saving the state, then stopping; once more to stop at once.")
        stop.set()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
