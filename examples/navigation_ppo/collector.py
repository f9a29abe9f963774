"""The collector: acts with the newest weights and pushes what came of it, rollout by rollout."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from navigation_ppo.collecting import Rollout, collect
from navigation_ppo.journal import Journal, checksum
from navigation_ppo.navigation import NavigationEnvs
from navigation_ppo.network import ActorCritic
from navigation_ppo.ppo import dice_of, policy_of
from navigation_ppo.settings import Settings
from penstock import CheckpointClient
from penstock.errors import LimitExceeded
from penstock.rollouts import Encoding, RolloutClient

__all__ = ["Collector"]

_POLL_S = 0.2
_FULL_S = 5.0


@dataclass
class _Policy:
    """Weights of a version, and the settings that came with them."""

    version: int
    settings: Settings
    network: ActorCritic

    @property
    def is_final(self) -> bool:
        return self.version >= self.settings.rollouts


class Collector:
    """Collects for one run until that has been trained to its end.

    It keeps nothing: killed and started again it finds its place in the stream, and begins new
    episodes.

    Args:
        run: Name of stream and checkpoints.
        rollouts: Where rollouts go.
        checkpoints: Where weights come from.
        journal: Gets a line for each rollout before it is pushed.
        producer: Name of this collector.
        encoding: Of the rollouts.
        say: Tells people.
    """

    def __init__(
        self,
        run: str,
        rollouts: RolloutClient,
        checkpoints: CheckpointClient,
        journal: Journal,
        *,
        producer: str,
        encoding: Encoding,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._producer = run, producer
        self._rollouts, self._checkpoints = rollouts, checkpoints
        self._journal, self._encoding, self._say = journal, encoding, say

    def collect(self) -> int:
        """Collect and push until the run is over; says how many were pushed."""
        policy = self._first_policy()
        settings = policy.settings
        # The trainer made the stream before it saved the first weights.
        last = self._rollouts.stream(self._run).last_iteration(self._producer)
        first = iteration = 0 if last is None else last + 1
        self._say(f"{self._run}: {self._producer} begins at iteration {iteration}")
        origin = (settings.seed, zlib.crc32(self._producer.encode()))
        # A collector that begins again is not to live through the same episodes again.
        envs = NavigationEnvs(settings.envs, (*origin, first))
        while not policy.is_final:
            act = policy_of(policy.network, dice_of(*origin, iteration))
            rollout = collect(envs, act, settings.steps)
            if not self._push(rollout, iteration, policy):
                break
            iteration += 1
            self._refresh(policy)
        self._say(f"{self._run}: over; {self._producer} pushed {iteration - first} rollouts")
        return iteration - first

    def _push(self, rollout: Rollout, iteration: int, policy: _Policy) -> bool:
        """Push, and wait while the queue is full; False if the run ended meanwhile."""
        begun = {
            "producer": self._producer,
            "iteration": iteration,
            "policy_version": policy.version,
            "checksum": checksum(rollout),
        }
        self._journal.write(begun)
        version = policy.version
        while not policy.is_final:
            try:
                start = time.perf_counter()
                info = self._rollouts.push(
                    rollout,
                    self._run,
                    iteration,
                    producer=self._producer,
                    policy_version=version,
                    encoding=self._encoding,
                    wait_s=_FULL_S,
                )
            except LimitExceeded as error:
                if error.reason != "QUEUE_FULL":
                    raise
                # Nobody takes any more after the last one.
                self._refresh(policy)
            else:
                self._say(
                    f"iteration {iteration} by policy {version} is number {info.sequence}: "
                    f"{info.raw_size_bytes / 1e6:.1f} MB as {info.digest.size_bytes / 1e6:.1f} MB "
                    f"in {(time.perf_counter() - start) * 1e3:.0f} ms"
                )
                return True
        return False

    def _first_policy(self) -> _Policy:
        told = False
        while (info := self._checkpoints.latest(self._run)) is None:
            if not told:
                self._say(f"{self._run}: waiting for its first weights")
                told = True
            time.sleep(_POLL_S)
        state = self._checkpoints.load(self._run, info.step)
        settings = Settings(**state["settings"])
        network = ActorCritic(settings.width)
        network.load_state_dict(state["network"])
        return _Policy(info.step, settings, network)

    def _refresh(self, policy: _Policy) -> None:
        """Load the newest weights, if they are newer."""
        newest = self._checkpoints.get(self._run).step
        if newest > policy.version:
            weights = self._checkpoints.load(self._run, newest, only=("network",))
            policy.network.load_state_dict(weights)
            policy.version = newest
