"""The trainer: takes rollouts, learns from each exactly once, saves weights for the collectors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from navigation_ppo.journal import Journal, checksum
from navigation_ppo.ppo import Learner
from navigation_ppo.settings import Settings
from penstock import CheckpointClient
from penstock.client.rollout import Pulled
from penstock.errors import Corrupt, InvalidInput, NotFound, TimedOut
from penstock.rollouts import RolloutClient
from penstock.streams import StreamSettings, Take, Which

__all__ = ["CONSUMER", "QUEUE", "Record", "Trainer"]

CONSUMER = "trainer"
QUEUE = StreamSettings(capacity=2, when_full="refuse", keep_last=1)
"""Few may wait, so that they are young; what was trained on need not stay."""

_WAIT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """A rollout that was trained on: a line of the journal.

    Attributes:
        rollout: How many were trained on, this one counted: the step of its checkpoint.
        sequence: Its place in the stream.
        producer: Who collected it.
        iteration: Of that producer.
        policy_version: Version of the weights that acted.
        staleness: How many versions older these were than those that learned.
        attempt: How often it was given to a trainer.
        skipped_stale: Rollouts passed over before it because they were too old.
        damaged: Rollouts passed over before it because their content was damaged.
        checksum: Of all its values.
        mean_return: Of the last episodes that ended.
        success: Share of these that reached the goal; 0 while there are too few.
        pull_ms: Time to wait for it, fetch and decode it.
        learn_ms: Time to learn from it.
        losses: Means over its updates.
    """

    rollout: int
    sequence: int
    producer: str
    iteration: int
    policy_version: int
    staleness: int
    attempt: int
    skipped_stale: int
    damaged: int
    checksum: str
    mean_return: float
    success: float
    pull_ms: float
    learn_ms: float
    losses: dict[str, float]


class Trainer:
    """Trains one run to its end.

    The order is: take a rollout, learn from it, save a checkpoint that says so, settle it. Killed
    anywhere and started again it goes on from the newest checkpoint and is given the same rollout
    again; if the checkpoint knows it, it is settled and not learned from twice.

    Args:
        run: Name of stream and checkpoints.
        settings: Of the run.
        rollouts: Where rollouts come from.
        checkpoints: Where weights go.
        journal: Gets a line for each rollout that was trained on.
        max_staleness: Rollouts of older weights than this many versions are skipped, and counted.
        say: Tells people.

    Attributes:
        learner: How far it is.
    """

    def __init__(
        self,
        run: str,
        settings: Settings,
        rollouts: RolloutClient,
        checkpoints: CheckpointClient,
        journal: Journal,
        *,
        max_staleness: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._settings = run, settings
        self._rollouts, self._checkpoints = rollouts, checkpoints
        self._journal, self._max_staleness, self._say = journal, max_staleness, say
        self.learner = Learner(settings)
        self._last: Record | None = None

    def train(self, on_record: Callable[[Record], None]) -> None:
        """Train until the run is over.

        Args:
            on_record: Called for each rollout, when it is trained on, saved and settled.

        Raises:
            InvalidInput: The run was begun with other settings.
            Conflict: Another trainer has taken the run over.
        """
        self._rollouts.configure(self._run, QUEUE)
        self._resume()
        while self.learner.trained < self._settings.rollouts:
            start = time.perf_counter()
            pulled, damaged = self._pull()
            sequence = pulled.info.sequence
            if self._last is not None and sequence <= self._last.sequence:
                self._say(f"number {sequence} is in checkpoint {self._last.rollout}: settled")
                self._rollouts.settle(self._run, CONSUMER, sequence)
                continue
            record = self._learn(pulled, damaged, pull_s=time.perf_counter() - start)
            self._last = record
            self._save()
            self._journal.write(asdict(record))
            self._rollouts.settle(self._run, CONSUMER, sequence)
            on_record(record)

    def _resume(self) -> None:
        newest = self._checkpoints.latest(self._run)
        if newest is None:
            self._journal.end_with(None)
            self._save()
            return
        state = self._checkpoints.load(self._run, newest.step)
        begun, wanted = state["settings"], asdict(self._settings)
        others = [f"{name} {begun[name]}" for name in wanted if wanted[name] != begun[name]]
        if others:
            raise InvalidInput(
                f"run {self._run} was begun with {', '.join(others)}: give the same, or another "
                "--run",
                field="run",
            )
        self.learner.restore(state["learner"] | {"network": state["network"]})
        self._last = Record(**state["record"]) if state["record"] else None
        # The journal may lack the line of this checkpoint, if the trainer died in between.
        self._journal.end_with(state["record"])
        self._say(f"{self._run}: goes on after rollout {self.learner.trained}")

    def _pull(self) -> tuple[Pulled, int]:
        """The next rollout, and how many damaged ones were passed over."""
        damaged = 0
        take = Take(
            consumer=CONSUMER,
            policy_version=self.learner.trained,
            max_staleness=self._max_staleness,
        )
        while True:
            try:
                pulled = self._rollouts.pull(self._run, Which(take=take), wait_s=_WAIT_S)
            except (TimedOut, NotFound):
                self._say(f"{self._run}: waiting for rollouts")
            except Corrupt as error:
                if "sequence" not in error.metadata:
                    raise
                # It would be given to this consumer again and again.
                self._say(f"passed over: {error}")
                self._rollouts.settle(self._run, CONSUMER, int(error.metadata["sequence"]))
                damaged += 1
            else:
                return pulled, damaged

    def _learn(self, pulled: Pulled, damaged: int, pull_s: float) -> Record:
        info, version = pulled.info, self.learner.trained
        start = time.perf_counter()
        data = pulled.data
        losses = self.learner.learn(data)
        learn_s = time.perf_counter() - start
        return Record(
            rollout=self.learner.trained,
            sequence=info.sequence,
            producer=info.producer,
            iteration=info.iteration,
            policy_version=info.policy_version,
            staleness=version - info.policy_version,
            attempt=pulled.opened.attempt,
            skipped_stale=pulled.opened.skipped_stale,
            damaged=damaged,
            checksum=checksum(data),
            mean_return=self.learner.mean_return,
            success=self.learner.success,
            pull_ms=round(pull_s * 1e3, 1),
            learn_ms=round(learn_s * 1e3, 1),
            losses=losses,
        )

    def _save(self) -> None:
        """When this returns, the next trainer will not learn from the last rollout again."""
        state: dict[str, Any] = self.learner.state()
        # Weights apart, so that a collector fetches nothing else.
        content = {
            "network": state.pop("network"),
            "learner": state,
            "settings": asdict(self._settings),
            "record": asdict(self._last) if self._last else None,
        }
        metrics = {"success": self.learner.success}
        self._checkpoints.save(content, self._run, self.learner.trained, metrics=metrics)
