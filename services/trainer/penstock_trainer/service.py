"""The trainer on the wire: translates messages, and holds what acting needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
from prometheus_client import Counter, Gauge

from penstock import load_checkpoint, open_checkpoints
from penstock.client.messages import tensor_from_message, tensor_to_message
from penstock.errors import InvalidInput, NotFound
from penstock.targets import Target
from penstock.v1 import trainer_pb2 as pb
from penstock.v1 import trainer_pb2_grpc as rpc
from penstock_trainer.config import TrainerSettings, TrainSettings, parse_options
from penstock_trainer.jobs import Job, JobQueue
from penstock_trainer.loop import RunResult, train
from penstock_trainer.policy import Policy
from penstock_trainer.reports import Progress

__all__ = ["SERVICE_NAME", "TrainerService", "settings_of"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name

STEPS = Counter("penstock_trainer_steps_total", "Optimiser steps done.")
BATCHES_PER_S = Gauge("penstock_trainer_batches_per_second", "Batches a second, latest report.")
WAIT_SHARE = Gauge("penstock_trainer_data_wait_share", "Share of time spent waiting for batches.")
ENDED = Counter("penstock_trainer_trainings_total", "Trainings that ended, by outcome.", ["state"])

_STATES = {
    "queued": pb.JOB_STATE_QUEUED,
    "running": pb.JOB_STATE_RUNNING,
    "succeeded": pb.JOB_STATE_SUCCEEDED,
    "failed": pb.JOB_STATE_FAILED,
    "cancelled": pb.JOB_STATE_CANCELLED,
}
_OWN_OPTIONS = {"ExpID", "results_dir", "load_model", "threads", "encoder_weights"}
"""Options that the service sets itself, or that name a path on its machine."""
_TARGETS = {"hdf5_path", "checkpoints"}


def settings_of(exp_id: str, options: dict[str, str], service: TrainerSettings) -> TrainSettings:
    """Settings of a run that was asked for over the wire.

    Raises:
        InvalidInput: An option is unknown, out of range, or the service's own to set.
    """
    for name, value in options.items():
        option = name.replace("-", "_")
        if option == "load_model" and value == "latest":
            continue  # what the service does anyway
        if option in _OWN_OPTIONS:
            raise InvalidInput(
                f"option {name!r} cannot be set over the wire: {sorted(_OWN_OPTIONS)} are the "
                "service's own",
                field=f"options.{name}",
            )
        if option in _TARGETS and value and Target.parse(value).scheme != "grpc":
            raise InvalidInput(
                f"option {name!r} is {value!r}, a path on the service's machine: name a service, "
                "e.g. grpc://sampler:50051, or leave it to the service's own default",
                field=f"options.{name}",
            )
    given = {
        "hdf5_path": service.hdf5_path,
        "checkpoints": service.checkpoints,
        "device": service.device,
        **{name.replace("-", "_"): value for name, value in options.items()},
        "ExpID": exp_id,
        "results_dir": str(service.results_dir),
        # A run that the service was asked for is its own: it goes on wherever it was left.
        "load_model": "latest",
        "threads": str(service.threads),
    }
    settings = parse_options(given)
    if not settings.hdf5_path:
        raise InvalidInput(
            "option 'hdf5_path' is missing, and this service has no default: give a sampler "
            "target, e.g. grpc://sampler:50051",
            field="options.hdf5_path",
        )
    return settings


class TrainerService(rpc.TrainerServiceServicer):
    """See ``trainer.proto`` for what each method promises."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self.jobs = JobQueue(settings.state_dir, self._train)
        self._policies: dict[str, tuple[object, Policy]] = {}
        self._policies_lock = threading.Lock()

    def register(self, server: grpc.Server) -> list[str]:
        """Add the service to a server."""
        rpc.add_TrainerServiceServicer_to_server(self, server)
        return [SERVICE_NAME]

    def drain(self) -> None:
        """Have the running training save its state; it goes on after a restart."""
        self.jobs.close(self._settings.drain_s)

    def StartTraining(  # noqa: N802 - the name in the proto
        self, request: pb.StartTrainingRequest, context: grpc.ServicerContext
    ) -> pb.StartTrainingResponse:
        """Queue a training."""
        del context
        options = dict(request.options)
        settings = settings_of(request.exp_id, options, self._settings)
        job = self.jobs.submit(request.exp_id, options, settings.max_timesteps)
        return pb.StartTrainingResponse(training=_message(job))

    def WatchTraining(  # noqa: N802 - the name in the proto
        self, request: pb.WatchTrainingRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchTrainingResponse]:
        """Stream a run's state until it has ended."""
        is_wanted: Callable[[], bool] = context.is_active
        for job in self.jobs.watch(request.exp_id, is_wanted):
            yield pb.WatchTrainingResponse(training=_message(job))

    def CancelTraining(  # noqa: N802 - the name in the proto
        self, request: pb.CancelTrainingRequest, context: grpc.ServicerContext
    ) -> pb.CancelTrainingResponse:
        """Ask a run to stop."""
        del context
        return pb.CancelTrainingResponse(training=_message(self.jobs.cancel(request.exp_id)))

    def ListTrainings(  # noqa: N802 - the name in the proto
        self, request: pb.ListTrainingsRequest, context: grpc.ServicerContext
    ) -> pb.ListTrainingsResponse:
        """List all runs."""
        del request, context
        return pb.ListTrainingsResponse(trainings=[_message(job) for job in self.jobs.list()])

    def SelectAction(  # noqa: N802 - the name in the proto
        self, request: pb.SelectActionRequest, context: grpc.ServicerContext
    ) -> pb.SelectActionResponse:
        """Act with the best policy of a run."""
        del context
        job = self.jobs.get(request.exp_id)
        policy = self._policy(job)
        images = {image.name: np.asarray(tensor_from_message(image)) for image in request.images}
        joint = np.asarray(tensor_from_message(request.joint))
        if not np.issubdtype(joint.dtype, np.floating):
            raise InvalidInput(f"joint is {joint.dtype}: expected float32", field="joint")
        for name, image in images.items():
            if image.dtype != np.uint8:
                raise InvalidInput(
                    f"image {name!r} is {image.dtype}: expected uint8", field=f"images.{name}"
                )
        # the policy checks shapes and camera names
        action = np.atleast_2d(
            policy.select_action(
                {name: image.astype(np.uint8, copy=False) for name, image in images.items()},
                joint.astype(np.float32),
            )
        )
        return pb.SelectActionResponse(action=tensor_to_message("action", action), step=policy.step)

    def _train(
        self, job: Job, progress: Callable[[Progress], None], should_stop: threading.Event
    ) -> RunResult:
        done = job.step

        def report(now: Progress) -> None:
            nonlocal done
            STEPS.inc(max(0, now.step - done))
            done = now.step
            BATCHES_PER_S.set(now.metrics.get("batches_per_s", 0.0))
            WAIT_SHARE.set(now.metrics.get("data_wait_share", 0.0))
            progress(now)

        settings = settings_of(job.exp_id, job.options, self._settings)
        outcome = "failed"
        try:
            result = train(settings, progress=report, should_stop=should_stop)
            outcome = "succeeded" if result.finished else "stopped"
        finally:
            BATCHES_PER_S.set(0.0)
            ENDED.labels(outcome).inc()
        return result

    def _policy(self, job: Job) -> Policy:
        """The best policy of a run, loaded again when there is a newer one."""
        settings = settings_of(job.exp_id, job.options, self._settings)
        path = settings.run_dir / "model_best"
        if settings.train_test_split == 1:  # nothing held out, so none is the best
            path = settings.run_dir / "model_final"
        version = _version(path)
        with self._policies_lock:
            known = self._policies.get(job.exp_id)
            if known is not None and known[0] == version:
                return known[1]
            if version is not None:
                state = load_checkpoint(path)
            else:  # the results folder is not that of the run's last process
                with open_checkpoints(settings.checkpoint_target) as store:
                    try:
                        state = store.load(job.exp_id, path.name.removeprefix("model_"))
                    except NotFound as error:
                        raise NotFound(
                            f"training {job.exp_id!r} has no policy yet: wait for its first "
                            f"evaluation, at step {settings.eval_freq}"
                        ) from error
            policy = Policy.from_checkpoint(state)
            self._policies[job.exp_id] = (version, policy)
            return policy


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def _message(job: Job) -> pb.Training:
    return pb.Training(
        exp_id=job.exp_id,
        state=_STATES[job.state],
        step=job.step,
        max_steps=job.max_steps,
        metrics=job.metrics,
        error=job.error,
        created_unix_ms=job.created_unix_ms,
        updated_unix_ms=job.updated_unix_ms,
        options=job.options,
    )
