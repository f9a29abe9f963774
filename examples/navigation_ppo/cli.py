"""The commands: in one process, as collector and trainer, or all of it on this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import click

from navigation_ppo.settings import Settings
from penstock.errors import PenstockError

__all__ = ["main"]

_RETRY_S = 600.0
"""How long both wait for a checkpointer, or a network, that is away."""

_DEFAULT_TARGET = "grpc://127.0.0.1:50053"

_target = click.option(
    "--target",
    default=_DEFAULT_TARGET,
    show_default=True,
    help="The checkpointer: grpc://host:50053, or file:///dev/shm/NAME for processes of one host.",
)
_run = click.option(
    "--run", default="navigation", show_default=True, help="Name of stream and checkpoints."
)
_seed = click.option("--seed", type=click.IntRange(0), default=Settings.seed, show_default=True)
_rollouts = click.option(
    "--rollouts",
    type=click.IntRange(1),
    default=Settings.rollouts,
    show_default=True,
    help="Rollouts to train on.",
)
_envs = click.option("--envs", type=click.IntRange(1), default=Settings.envs, show_default=True)
_staleness = click.option(
    "--max-staleness",
    type=click.IntRange(0),
    default=6,
    show_default=True,
    help="Skip rollouts of weights that are more versions older than this.",
)
_codec = click.option(
    "--codec",
    type=click.Choice(("lz4", "zstd", "raw")),
    default="lz4",
    show_default=True,
    help="How rollouts are compressed on their way.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A robot learns by PPO to fly through moving obstacles.

    \b
    Examples:
      python -m navigation_ppo alone --seed 1
      python -m navigation_ppo run --out navigation
    On three machines:
      penstock serve checkpointer --root streams --host 0.0.0.0
      python -m navigation_ppo train --target grpc://storage:50053
      python -m navigation_ppo collect --target grpc://storage:50053
    """


@main.command()
@_seed
@_rollouts
@_envs
def alone(*, seed: int, rollouts: int, envs: int) -> None:
    """Collect and learn in turn, in this process.

    \b
    Examples:
      python -m navigation_ppo alone
      python -m navigation_ppo alone --seed 2 --rollouts 30
    """
    from navigation_ppo.alone import train_alone
    from navigation_ppo.ppo import Learner
    from navigation_ppo.table import verdict

    _one_thread()

    def show(learner: Learner) -> None:
        click.echo(
            f"rollout {learner.trained:3}  return {learner.mean_return:6.2f}  "
            f"success {learner.success:4.0%}"
        )

    _end(*verdict(train_alone(Settings(seed=seed, rollouts=rollouts, envs=envs), show)))


@main.command()
@_target
@_run
@click.option(
    "--producer", default="main", show_default=True, help="Name of this collector, if of several."
)
@_codec
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("collector.jsonl"),
    show_default=True,
    help="Gets a line for each rollout.",
)
def collect(
    *, target: str, run: str, producer: str, codec: Literal["lz4", "zstd", "raw"], journal: Path
) -> None:
    """Act with the newest weights and push rollouts, until the run is over.

    Killed and started again it goes on. Seed and amounts come with the weights.

    \b
    Examples:
      python -m navigation_ppo collect --target grpc://storage:50053
      python -m navigation_ppo collect --target grpc://storage:50053 --producer b --codec zstd
    """
    from navigation_ppo.collector import Collector
    from navigation_ppo.journal import Journal
    from penstock import open_checkpoints
    from penstock.rollouts import Encoding, open_rollouts

    _one_thread()
    with (
        _errors_said(),
        open_checkpoints(target, retry_s=_RETRY_S) as checkpoints,
        open_rollouts(target, retry_s=_RETRY_S) as streams,
    ):
        Collector(
            run,
            streams,
            checkpoints,
            Journal(journal),
            producer=producer,
            encoding=Encoding(codec=codec),
            say=click.echo,
        ).collect()


@main.command()
@_target
@_run
@_seed
@_rollouts
@_envs
@_staleness
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("trainer.jsonl"),
    show_default=True,
    help="Gets a line for each rollout that was trained on.",
)
def train(
    *,
    target: str,
    run: str,
    seed: int,
    rollouts: int,
    envs: int,
    max_staleness: int,
    journal: Path,
) -> None:
    """Learn from what collectors push, and save the weights they act with.

    Killed and started again it goes on, and learns from no rollout twice. Exits with 1 if the run
    missed the bar.

    \b
    Examples:
      python -m navigation_ppo train --target grpc://storage:50053
      python -m navigation_ppo train --target grpc://storage:50053 --run second --seed 2
    """
    from navigation_ppo.journal import Journal
    from navigation_ppo.table import heading, line_of, verdict
    from navigation_ppo.trainer import Trainer
    from penstock import open_checkpoints
    from penstock.rollouts import open_rollouts

    _one_thread()
    settings = Settings(seed=seed, rollouts=rollouts, envs=envs)
    with (
        _errors_said(),
        open_checkpoints(target, retry_s=_RETRY_S) as checkpoints,
        open_rollouts(target, retry_s=_RETRY_S) as streams,
    ):
        trainer = Trainer(
            run,
            settings,
            streams,
            checkpoints,
            Journal(journal),
            max_staleness=max_staleness,
            say=click.echo,
        )
        click.echo(heading())
        trainer.train(lambda record: click.echo(line_of(record)))
        _end(*verdict(trainer.learner))


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("navigation"),
    show_default=True,
    help="Folder of the store, the journals and the logs.",
)
@_run
@_seed
@_rollouts
@_envs
@_staleness
@_codec
def run(
    *,
    out: Path,
    run: str,
    seed: int,
    rollouts: int,
    envs: int,
    max_staleness: int,
    codec: str,
) -> None:
    """Start checkpointer, collector and trainer as processes, and watch them.

    Ctrl-C stops all three; the same command goes on from there. Exits with 1 if the run missed the
    bar.

    \b
    Examples:
      python -m navigation_ppo run
      python -m navigation_ppo run --out second --seed 1 --codec zstd
    """
    from navigation_ppo.local import run_here

    shared = {"run": run}
    trained: dict[str, Any] = {
        "seed": seed,
        "rollouts": rollouts,
        "envs": envs,
        "max-staleness": max_staleness,
    }
    with _errors_said():
        sys.exit(run_here(out.resolve(), shared | trained, shared | {"codec": codec}, click.echo))


def _one_thread() -> None:
    import torch

    # The network is small: one thread is faster than two, and leaves the other core alone.
    torch.set_num_threads(1)


def _end(passed: bool, words: str) -> None:  # noqa: FBT001 - a verdict and its words
    click.echo(words)
    sys.exit(0 if passed else 1)


@contextlib.contextmanager
def _errors_said() -> Generator[None]:
    try:
        yield
    except PenstockError as error:
        raise click.ClickException(str(error)) from error
