"""The trainer as its clients see it: start a run, watch it, act with its policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.client.channel import RETRY_S, answers, open_channel, retrying
from penstock.client.errors import translated_errors
from penstock.client.messages import tensor_from_message, tensor_to_message
from penstock.errors import Unavailable
from penstock.targets import Target
from penstock.v1 import trainer_pb2 as pb
from penstock.v1.trainer_pb2_grpc import TrainerServiceStub

__all__ = ["TrainerClient", "Training", "open_trainer"]

_STATES = {
    pb.JOB_STATE_QUEUED: "queued",
    pb.JOB_STATE_RUNNING: "running",
    pb.JOB_STATE_SUCCEEDED: "succeeded",
    pb.JOB_STATE_FAILED: "failed",
    pb.JOB_STATE_CANCELLED: "cancelled",
}
T = TypeVar("T")

_ENDED = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Training:
    """A run as it stands.

    Attributes:
        exp_id: Its name.
        state: queued, running, succeeded, failed or cancelled.
        step: Optimiser steps done.
        max_steps: Optimiser steps it will do.
        metrics: Latest value of each reported quantity.
        error: Why it failed; empty otherwise.
    """

    exp_id: str
    state: str
    step: int
    max_steps: int
    metrics: dict[str, float]
    error: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in _ENDED


class TrainerClient:
    """Starts and follows trainings on a trainer service."""

    def __init__(self, target: Target, retry_s: float) -> None:
        self._target, self._retry_s = target, retry_s
        self._channel = open_channel(target)
        self._stub = TrainerServiceStub(self._channel)

    def start(self, exp_id: str, options: Mapping[str, object]) -> Training:
        """Queue a run; asking again with the same options answers with the run as it stands.

        Raises:
            InvalidInput: An option is unknown or out of range.
            AlreadyExists: The run exists with other options.
        """
        texts = {name: str(value) for name, value in options.items()}
        request = pb.StartTrainingRequest(exp_id=exp_id, options=texts)

        def ask() -> pb.StartTrainingResponse:
            with translated_errors(self._target):
                return self._stub.StartTraining(request)

        return _training(self._retry(ask).training)

    def watch(self, exp_id: str) -> Iterator[Training]:
        """The run now, at every report, and when it has ended; outlives a restart of the service.

        Raises:
            NotFound: There is no such run.
            Unavailable: The service stayed away.
        """
        while True:
            stream = self._retry(lambda: self._first_report(exp_id))
            try:
                with translated_errors(self._target):
                    for report in stream:
                        training = _training(report.training)
                        yield training
                        if training.ended:
                            return
            except Unavailable:
                continue  # the service went away in mid-stream; opening it again waits for it

    def cancel(self, exp_id: str) -> Training:
        """Ask a run to save its state and stop."""

        def ask() -> pb.CancelTrainingResponse:
            with translated_errors(self._target):
                return self._stub.CancelTraining(pb.CancelTrainingRequest(exp_id=exp_id))

        return _training(self._retry(ask).training)

    def list(self) -> list[Training]:
        """All runs, newest first."""

        def ask() -> pb.ListTrainingsResponse:
            with translated_errors(self._target):
                return self._stub.ListTrainings(pb.ListTrainingsRequest())

        return [_training(training) for training in self._retry(ask).trainings]

    def select_action(
        self, exp_id: str, images: Mapping[str, NDArray[np.uint8]], joint: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Actions ``(B, A) float32`` of the best policy of a run.

        Args:
            exp_id: The run.
            images: ``(B, H, W, 3) uint8`` by camera name.
            joint: ``(B, J) float32``.
        """
        request = pb.SelectActionRequest(
            exp_id=exp_id,
            images=[tensor_to_message(name, image) for name, image in images.items()],
            joint=tensor_to_message("joint", joint),
        )

        def ask() -> pb.SelectActionResponse:
            with translated_errors(self._target):
                return self._stub.SelectAction(request)

        return tensor_from_message(self._retry(ask).action).astype(np.float32)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_report(self, exp_id: str) -> Iterator[pb.WatchTrainingResponse]:
        """A stream that is known to be answered; retried until it is."""
        with translated_errors(self._target):
            stream = answers(self._stub.WatchTraining(pb.WatchTrainingRequest(exp_id=exp_id)))
            first = next(stream)
        return chain((first,), stream)

    def _retry(self, ask: Callable[[], T]) -> T:
        return retrying(ask, target=self._target, retry_s=self._retry_s)


def open_trainer(target: str | Target, *, retry_s: float = RETRY_S) -> TrainerClient:
    """Open a trainer service, e.g. ``grpc://localhost:50052``.

    Args:
        target: Where it is.
        retry_s: Seconds to wait for a service that is away.
    """
    return TrainerClient(target if isinstance(target, Target) else Target.parse(target), retry_s)


def _training(message: pb.Training) -> Training:
    return Training(
        exp_id=message.exp_id,
        state=_STATES.get(message.state, "unknown"),
        step=message.step,
        max_steps=message.max_steps,
        metrics=dict(message.metrics),
        error=message.error,
    )
