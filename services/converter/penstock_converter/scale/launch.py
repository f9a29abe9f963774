"""A conversion as tasks of a datatrove executor: on this machine, a Ray cluster or Slurm.

Each task stages its share of the recordings beside the dataset-to-be; joining them is one more
``run_job``. All machines see recordings and dataset at the same paths.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from penstock.errors import InvalidInput, Unavailable, Unsupported
from penstock.memory import memory_limit_bytes
from penstock_converter.jobs.request import Job
from penstock_converter.jobs.tasks import worker_count

if TYPE_CHECKING:
    from datatrove.executor.slurm import SlurmPipelineExecutor

__all__ = ["Executor", "Launched", "check_room", "launch"]

Executor = Literal["local", "ray", "slurm"]

_TASKS_MOST = 1000
"""Of an array of Slurm, unless somebody says otherwise."""

_SLURM: dict[str, Callable[[str], object]] = {
    "time": str,
    "partition": str,
    "cpus_per_task": int,
    "mem_per_cpu_gb": int,
    "workers": int,
    "tasks_per_job": int,
    "max_array_size": int,
    "qos": str,
    "job_name": str,
    "env_command": str,
    "condaenv": str,
    "venv_path": str,
    "mail_user": str,
}
_RAY: dict[str, Callable[[str], object]] = {
    "cpus_per_task": int,
    "mem_per_cpu_gb": float,
    "workers": int,
    "time": int,
}
_RESOURCES = {"cpus_per_task": 2, "mem_per_cpu_gb": 2}
"""Two cores keep up with two or three cameras; memory bounds how many frames are in flight."""


class Launched(NamedTuple):
    """What was started.

    Attributes:
        token: For ``run_job``, which joins; empty where a task does.
        logs: Folder with the logs of the tasks.
        unfinished: Tasks that did not come to their end: what they left, the joining converts.
        joining: Number of the Slurm job that joins.
    """

    token: str
    logs: Path
    unfinished: int = 0
    joining: str = ""


def launch(
    job: Job, executor: Executor, tasks: int | None = None, options: Mapping[str, str] | None = None
) -> Launched:
    """Stage all recordings through ``executor``; with Slurm only submit that, and the joining.

    Args:
        job: What is to be converted; its output was found not to be there.
        executor: Which one.
        tasks: How many there are; default: by cores and memory (local), else one a recording.
        options: Of the executor, e.g. ``time``, ``partition``, ``cpus_per_task``,
            ``mem_per_cpu_gb``; others go to sbatch as they are, e.g. ``account``.

    Raises:
        Unsupported: An extra is not installed, or Slurm is not on this machine.
        InvalidInput: An option does not fit.
        Unavailable: sbatch refused a job.
    """
    try:
        from penstock_converter.scale.steps import (  # noqa: PLC0415 - an extra
            JoinShares,
            StageShare,
        )
    except ModuleNotFoundError as error:
        raise _missing(error, "scale") from error
    count = len(job.bags)
    most = worker_count(count, None) if executor == "local" else _TASKS_MOST
    tasks = min(tasks or most, count)
    token = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    logs = job.out.with_name(f"{job.out.name}.logs") / token
    given = _typed(executor, dict(options or {}))
    resources = {**_RESOURCES, **given}
    memory_bytes = int(resources["cpus_per_task"] * resources["mem_per_cpu_gb"] * 2**30)
    if executor == "local":
        memory_bytes = memory_limit_bytes() // tasks
    stage = StageShare(job, token, memory_bytes, Path.cwd())
    if executor == "slurm":
        join = JoinShares(job, token, Path.cwd())
        return Launched("", logs, joining=_submit(stage, join, tasks, logs, resources))
    if executor == "ray":
        return Launched(token, logs, _run_on_ray(stage, tasks, logs, resources))
    from datatrove.executor import LocalPipelineExecutor  # noqa: PLC0415 - an extra

    LocalPipelineExecutor([stage], tasks=tasks, logging_dir=str(logs)).run()
    return Launched(token, logs)


def _run_on_ray(stage: Any, tasks: int, logs: Path, resources: dict[str, Any]) -> int:
    """Stage on the cluster that RAY_ADDRESS names, or on a small one of this machine's own."""
    try:
        import ray  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _missing(error, "ray") from error
    from datatrove.executor import RayPipelineExecutor  # noqa: PLC0415 - an extra

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        # A cluster that somebody names may grow when tasks wait.
        if os.environ.get("RAY_ADDRESS", "local") == "local":
            check_room(ray.cluster_resources(), resources)
        executor = RayPipelineExecutor([stage], tasks=tasks, logging_dir=str(logs), **resources)
        executor.run()
        return len(executor.get_incomplete_ranks(skip_completed=True))
    finally:
        if started:
            ray.shutdown()


def check_room(cluster: Mapping[str, float], resources: Mapping[str, Any]) -> None:
    """Refuse tasks that would wait for ever.

    Args:
        cluster: What there is of ``CPU`` and of ``memory`` in bytes, on all nodes.
        resources: What each task gets: ``cpus_per_task``, ``mem_per_cpu_gb``.

    Raises:
        InvalidInput: There is less than one task needs.
    """
    cpus = resources["cpus_per_task"]
    memory_gb = cpus * resources["mem_per_cpu_gb"]
    found_gb = cluster.get("memory", 0) / 2**30
    if cluster.get("CPU", 0) < cpus or found_gb < memory_gb:
        raise InvalidInput(
            f"a task needs {cpus} CPUs and {memory_gb:.1f} GiB, all of the Ray cluster has "
            f"{cluster.get('CPU', 0):.0f} CPUs and {found_gb:.1f} GiB: set --ray cpus_per_task=N "
            "and --ray mem_per_cpu_gb=N",
            field="ray",
        )


def _submit(stage: Any, join: Any, tasks: int, logs: Path, resources: dict[str, Any]) -> str:
    """Submit the staging, and the joining for when it has ended, however it has."""
    _check_slurm(resources)
    name = str(resources.pop("job_name", f"penstock-{join.job.out.name}"))
    staging = _slurm_executor(stage, tasks, logs / "stage", f"{name}-stage", resources)
    joining = _slurm_executor(join, 1, logs / "join", f"{name}-join", resources)
    joining.depends = staging
    # The joining converts what a task left that was killed, or ran out of time.
    joining.run_on_dependency_fail = True
    try:
        joining.run()
    except subprocess.CalledProcessError as error:
        submitted = f"job {staging.job_id} stages" if staging.job_id else "nothing was submitted"
        raise Unavailable(
            f"sbatch refused a job (exit status {error.returncode}; what it says is above); "
            f"{submitted}: mend the options and start again, what is staged is kept",
            reason="SLURM",
        ) from error
    return str(joining.job_id)


def _slurm_executor(
    step: Any, tasks: int, logs: Path, name: str, resources: dict[str, Any]
) -> SlurmPipelineExecutor:
    from datatrove.executor import SlurmPipelineExecutor  # noqa: PLC0415 - an extra

    # Not every cluster has the quality of service that datatrove would name.
    known: dict[str, Any] = {"qos": None}
    known |= {key: value for key, value in resources.items() if key in _SLURM}
    if not {"env_command", "condaenv", "venv_path"} & set(known):
        # The nodes see the environment that submits, at the same path.
        known["env_command"] = (
            f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
        )
    return SlurmPipelineExecutor(
        [step],
        tasks=tasks,
        logging_dir=str(logs),
        job_name=name,
        sbatch_args={key: value for key, value in resources.items() if key not in _SLURM},
        **known,
    )


def _check_slurm(resources: dict[str, Any]) -> None:
    missing = [key for key in ("time", "partition") if key not in resources]
    if missing:
        raise InvalidInput(
            f"Slurm needs {' and '.join(missing)}: --slurm time=08:00:00 --slurm partition=cpu",
            field="slurm",
        )
    if shutil.which("sbatch") is None:
        raise Unsupported("sbatch is not on this machine: start from a login node of the cluster")


def _typed(executor: Executor, options: dict[str, str]) -> dict[str, Any]:
    known = {"local": {}, "ray": _RAY, "slurm": _SLURM}[executor]
    typed: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known and executor != "slurm":
            raise InvalidInput(
                f"{key} is no option of {executor}: {', '.join(known) or 'there are none'}",
                field=executor,
            )
        try:
            typed[key] = known.get(key, str)(text)
        except ValueError as error:
            raise InvalidInput(f"{key}={text}: expected a number", field=executor) from error
    return typed


def _missing(error: ModuleNotFoundError, extra: str) -> Unsupported:
    return Unsupported(
        f"--executor: the module {error.name!r} is not installed: pip install 'penstock[{extra}]'"
    )
