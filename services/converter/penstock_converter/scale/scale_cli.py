"""Options that spread a conversion over tasks: ``--executor`` and those that go with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock_converter.jobs.request import Job
    from penstock_converter.scale.launch import Executor

__all__ = ["Scale", "scale_options"]


class Scale(NamedTuple):
    """How a conversion is spread.

    Attributes:
        executor: Which executor of datatrove; None: none.
        tasks: How many tasks; None: as many as fit.
        slurm: Options of Slurm, ``KEY=VALUE``.
        ray: Options of Ray.
    """

    executor: Executor | None
    tasks: int | None
    slurm: tuple[str, ...]
    ray: tuple[str, ...]

    def stage(self, job: Job, *, uploads: bool) -> str:
        """Stage all recordings in tasks; with Slurm, submit that and end the command.

        Returns:
            What ``run_job`` is told to join them.

        Raises:
            InvalidInput: Options do not go together.
            PenstockError: See ``launch`` and ``plan_job``.
        """
        options = {"slurm": self.slurm, "ray": self.ray}
        for name, texts in options.items():
            if texts and self.executor != name:
                raise InvalidInput(f"--{name} goes with --executor {name}", field=name)
        if self.executor is None:
            if self.tasks is not None:
                raise InvalidInput("--tasks goes with --executor", field="tasks")
            return ""
        if self.executor == "slurm" and uploads:
            raise InvalidInput(
                "--push-to-hub: with Slurm the dataset is made later: upload it then with "
                "penstock convert push",
                field="push_to_hub",
            )
        from penstock_converter.jobs.request import plan_job
        from penstock_converter.scale.launch import launch

        plan = plan_job(job)
        if plan.present is not None:
            return ""
        given = dict(_pair(text) for text in options.get(self.executor, ()))
        launched = launch(plan.job, self.executor, self.tasks, given)
        if launched.unfinished:
            click.echo(
                f"{launched.unfinished} tasks did not come to their end, this process does what "
                f"they left: see {launched.logs}",
                err=True,
            )
        if launched.joining:
            click.echo(
                f"submitted: Slurm job {launched.joining} makes {job.out} when all recordings are "
                f"staged; logs are in {launched.logs}",
                err=True,
            )
            click.get_current_context().exit()
        return launched.token


def scale_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options; the command takes what they say as ``scale``."""

    @click.option(
        "--executor",
        type=click.Choice(["local", "ray", "slurm"]),
        help="Spread the recordings over tasks of datatrove, on machines that share their files.",
    )
    @click.option(
        "--tasks",
        type=click.IntRange(min=1),
        help="How many tasks.  [default: one a recording, 1000 at most; local: as cores allow]",
    )
    @click.option(
        "--slurm",
        multiple=True,
        metavar="KEY=VALUE",
        help="time and partition are needed; cpus_per_task, mem_per_cpu_gb, workers (tasks at a "
        "time), venv_path, ...; others go to sbatch, e.g. account=robots. Repeat for each.",
    )
    @click.option(
        "--ray",
        multiple=True,
        metavar="KEY=VALUE",
        help="cpus_per_task, mem_per_cpu_gb, workers (tasks at a time), time (seconds of a task). "
        "RAY_ADDRESS names the cluster.",
    )
    @functools.wraps(command)
    def with_scale(
        *args: Any,
        executor: Executor | None,
        tasks: int | None,
        slurm: tuple[str, ...],
        ray: tuple[str, ...],
        **options: Any,
    ) -> Any:
        return command(*args, scale=Scale(executor, tasks, slurm, ray), **options)

    return with_scale


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InvalidInput(f"{text!r}: expected KEY=VALUE", field="executor")
    return key, value
