"""The stages of the demo, in order. Each finds again what an earlier run has done."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from two_arm_reach import bags
from two_arm_reach.clip import animate, film
from two_arm_reach.record import record

from bag_to_policy.measurements import Throughput, logged_curve, measure_throughput
from bag_to_policy.pictures import Curve
from bag_to_policy.policies import Rollouts, fetch_policy, return_curve, view_of
from bag_to_policy.processes import Processes
from bag_to_policy.recipe import ALGORITHMS, IMAGE_SIZE, Recipe, run_name
from bag_to_policy.summary import Score
from bag_to_policy.training import follow
from penstock import Batch, open_checkpoints, open_sampler, open_trainer
from penstock.client.trainer import Training
from penstock.errors import DataFault
from penstock.server.port import free_ports

__all__ = ["Demo", "Sampled", "Trained"]

_PENSTOCK = (sys.executable, "-m", "penstock.cli")
_MAPPING = Path(bags.__file__).with_name("mapping.yaml")
_CLIP_EPISODES = range(4)


@dataclass(frozen=True)
class Sampled:
    """What the sampler gave: its rate, the first batch of the trainings, the data's version."""

    throughput: Throughput
    batch: Batch
    dataset_version: str


@dataclass(frozen=True)
class Trained:
    """A training and its best policy.

    Attributes:
        report: The trainer's last report.
        score: Of the best policy, over the roll-outs.
        returns: Mean return by step, one point a checkpoint.
        action_error: Mean squared error on held-out episodes by step, in z-scores.
        clip: Animated PNG of the best policy.
        compression: Tensor bytes to stored bytes of the best checkpoint.
    """

    report: Training
    score: Score
    returns: Curve
    action_error: Curve
    clip: bytes
    compression: float


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        out: Folder of all that is made.
        recipe: Amounts and seeds.
        processes: Keeps the services.
        console: Where people read.
        stage_seconds: Wall time of each stage that has ended.
    """

    out: Path
    recipe: Recipe
    processes: Processes
    console: Console
    stage_seconds: dict[str, float] = field(default_factory=dict[str, float])
    _targets: dict[str, str] = field(default_factory=dict[str, str])

    def record(self) -> list[Path]:
        """Record the bags."""
        with self._stage("record"), self._progress() as progress:
            bar = progress.add_task("recording episodes", total=self.recipe.episodes, note="")
            return record(
                self.out / "bags",
                self.recipe.episodes,
                bags.RecordingSpec(seed=self.recipe.seed),
                on_progress=lambda count: progress.advance(bar, count),
            )

    def convert(self, recorded: list[Path]) -> None:
        """Convert the bags to LeRobot and to HDF5 by the command line, as a user would.

        Raises:
            DataFault: The converter refused.
        """
        command = [*_PENSTOCK, "convert", *map(str, recorded), "--mapping", str(_MAPPING)]
        command += ["--out", str(self.out / "lerobot"), "--hdf5", str(self.out / "hdf5")]
        with self._stage("convert"):
            code = self.processes.run(command)
        if code:
            raise DataFault(f"penstock convert ended with exit code {code}: see above")

    def serve(self) -> None:
        """Start sampler, checkpointer and trainer and wait until all three serve."""
        sampler, checkpointer, trainer = free_ports(3)
        ports = {"sampler": sampler, "checkpointer": checkpointer, "trainer": trainer}
        self._targets = {name: f"grpc://127.0.0.1:{port}" for name, port in ports.items()}
        settings: dict[str, dict[str, object]] = {
            "sampler": {
                "data": self.out / "hdf5" / "*.hdf5",
                # Every episode is a file: one that stays open need not be opened for each batch.
                "max-open-files": min(self.recipe.episodes, _descriptors() // 2),
            },
            "checkpointer": {"root": self.out / "checkpoints"},
            "trainer": {
                "hdf5-path": self._targets["sampler"],
                "checkpoints": self._targets["checkpointer"],
                "state-dir": self.out / "trainer",
                "results-dir": self.out / "results",
            },
        }
        with self._stage("start services"):
            for name, own in settings.items():
                flags = {**own, "host": "127.0.0.1", "port": ports[name]}
                words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
                self.processes.serve(name, [*_PENSTOCK, "serve", name, *words])
            for name, target in self._targets.items():
                self.processes.wait_until_healthy(name, target)

    def sample(self) -> Sampled:
        """Measure the sampler before anybody else asks it."""
        with (
            self._stage("sample"),
            open_sampler(self._targets["sampler"], image_size=IMAGE_SIZE) as sampler,
        ):
            plan = self.recipe.plan()
            throughput = measure_throughput(sampler, plan)
            # A batch is a function of plan and step: this one is the trainer's first.
            return Sampled(throughput, sampler.sample(plan, 0), sampler.info.version)

    def train(self, dataset_version: str) -> dict[str, Training]:
        """Train by both algorithms, one after the other."""
        options = {name: self.recipe.training_options(name) for name in ALGORITHMS}
        runs = {name: run_name(name, wanted, dataset_version) for name, wanted in options.items()}
        with (
            self._stage("train"),
            open_trainer(self._targets["trainer"]) as trainer,
            self._progress() as progress,
        ):
            return follow(trainer, runs, options, progress)

    def evaluate(self, trainings: dict[str, Training]) -> dict[str, Trained]:
        """Fetch policies from the checkpointer and roll them out."""
        rollouts = Rollouts(self.recipe.rollouts, self.recipe.seed)
        with (
            self._stage("evaluate"),
            open_checkpoints(self._targets["checkpointer"]) as checkpoints,
            self._progress() as progress,
        ):
            trained: dict[str, Trained] = {}
            for name, training in trainings.items():
                points = len(checkpoints.list(training.exp_id)) + 1
                bar = progress.add_task(f"roll-outs of {ALGORITHMS[name]}", total=points, note="")
                advance: Callable[[], None] = lambda bar=bar: progress.advance(bar)  # noqa: E731
                best = fetch_policy(checkpoints, training.exp_id, "best")
                score = Score.of_evaluation(rollouts.of(best))
                advance()
                stored = checkpoints.get(training.exp_id, "best")
                trained[name] = Trained(
                    report=training,
                    score=score,
                    returns=return_curve(checkpoints, training.exp_id, rollouts, advance),
                    action_error=logged_curve(
                        self._results(training) / "progress.csv", "val_action_error"
                    ),
                    clip=animate(
                        film(
                            best.select_action,
                            episodes=_CLIP_EPISODES,
                            seed=self.recipe.seed,
                            view=view_of(best),
                        )
                    ),
                    compression=stored.raw_size_bytes / stored.size_bytes,
                )
            return trained

    def _results(self, training: Training) -> Path:
        return self.out / "results" / f"Exp{training.exp_id}" / "multimodal_robot"

    @contextmanager
    def _stage(self, name: str) -> Generator[None]:
        self.console.rule(f"[bold]{name}", align="left")
        begun = time.perf_counter()
        yield
        self.stage_seconds[name] = time.perf_counter() - begun
        self.console.print(f"[dim]{self.stage_seconds[name]:.1f} s")

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )


def _descriptors() -> int:
    """Files that a process may have open; a large number where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit
