"""Asks for advice again now and then, and watches what really happens."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from numpy.typing import NDArray

from penstock.client.rollout import RolloutClient, open_rollouts
from penstock.cores import usable_cores
from penstock.errors import InvalidInput
from penstock.rollout_file import Encoding
from penstock.rollouts.advising import costs
from penstock.rollouts.advising.advice import Advice, advice_for, advice_without_sending
from penstock.rollouts.advising.link import measure_link
from penstock.rollouts.advising.place import place_of
from penstock.rollouts.advising.plans import LOSS, Link, PlanName, choose, plans_for
from penstock.rollouts.tensors import leaves_of
from penstock.targets import Target

__all__ = ["Advisor", "advise"]

log = logging.getLogger(__name__)

SAMPLE_ENVS = 64
_STRIKES = 3
"""Pushes in a row that took too long, before raw is sent."""


class Advisor:
    """Says how to encode rollouts to a target, and measures again every so many of them.

    Where the target is this process or this host there is nothing to gain, and nothing is measured.
    Else a few pushes of noise to the stream ``penstock-probe``, deleted again, tell the speed of
    the way, and some environments of the rollout at hand what its fields take. The plan is changed
    when another one is predicted to be over 10 % faster, and given up for raw when three pushes in
    a row take so long that raw would be over 5 % faster.

    Args:
        target: Where the rollouts go: a target, or a client that is open; None for nowhere.
        every: Rollouts from one measurement to the next.
        threads: That encode.
        sample_envs: Environments that the fields are measured on.
        bandwidth_bytes_per_s: Of the way, where it is known; it is not measured then.
        same_host: Whether the target is on this host; None finds out.

    Attributes:
        counts: ``measured``, ``changed``, ``given_up``.

    Raises:
        InvalidInput: An argument is not valid.
    """

    def __init__(
        self,
        target: str | Target | RolloutClient | None = None,
        *,
        every: int = 50,
        threads: int = 1,
        sample_envs: int = SAMPLE_ENVS,
        bandwidth_bytes_per_s: float | None = None,
        same_host: bool | None = None,
    ) -> None:
        for name, value in (("every", every), ("threads", threads), ("sample_envs", sample_envs)):
            if value < 1:
                raise InvalidInput(f"{name}={value}: expected at least 1", field=name)
        if bandwidth_bytes_per_s is not None and not bandwidth_bytes_per_s > 0:
            raise InvalidInput(
                f"bandwidth_bytes_per_s={bandwidth_bytes_per_s}: expected more than 0",
                field="bandwidth_bytes_per_s",
            )
        self._client = target if isinstance(target, RolloutClient) else None
        self._owned: RolloutClient | None = None
        self._target = _target_of(target)
        self._every, self._sample_envs = every, sample_envs
        # More threads than cores are no faster.
        self._threads = min(threads, usable_cores())
        self._bandwidth_bytes_per_s = bandwidth_bytes_per_s
        place = place_of(self._target)
        if same_host is not None:
            place = "host" if same_host else "network"
        elif bandwidth_bytes_per_s is not None:
            place = "network"
        self._lock = threading.Lock()
        self._advice = None if place == "network" else advice_without_sending(place)
        self._sends = place == "network"
        self._asked = 0
        self._strikes = 0
        self._longest_push_s = float("inf")
        self.counts: Counter[str] = Counter()

    @property
    def advice(self) -> Advice | None:
        """The last advice; None before the first rollout."""
        return self._advice

    def encoding(self, data: Any) -> Encoding:
        """How to encode this rollout; takes and raises what ``advise`` does."""
        return self.advise(data).encoding

    def advise(self, data: Any) -> Advice:
        """How to encode this rollout, and why.

        Args:
            data: Nested dicts of arrays or tensors, or a TensorDict.

        Raises:
            InvalidInput: It holds what cannot be stored.
            PenstockError: The target takes no rollouts.
        """
        with self._lock:
            due = self._asked % self._every == 0
            self._asked += 1
            if self._advice is None or (due and self._sends):
                self._advice = self._measured(leaves_of(data))
            return self._advice

    def note(self, seconds: float) -> None:
        """Say what a push by the last advice took, without waiting for a full queue."""
        with self._lock:
            advice = self._advice
            if advice is None or advice.plan == "none":
                return
            self._strikes = self._strikes + 1 if seconds > self._longest_push_s else 0
            if self._strikes < _STRIKES:
                return
            self._strikes = 0
            self.counts["given_up"] += 1
            reason = (
                f"none: a push of {advice.plan} took over {1000 * self._longest_push_s:.3g} ms "
                f"{_STRIKES} times in a row, at last {1000 * seconds:.3g} ms: a rollout sent as it "
                f"is would be there sooner, in {1000 * advice.predicted_s['none']:.3g} ms"
            )
            log.warning("rollouts to %s: %s", self._target, reason)
            self._advice = replace(
                advice, plan="none", encoding=costs.WAYS["plain"], ratio=1.0, reason=reason
            )

    @contextmanager
    def watching(self, client: RolloutClient) -> Generator[None]:
        """Note what the push inside takes, unless it waits for a queue or for a service."""
        waits, begun_s = _waits(client), time.perf_counter()
        yield
        if _waits(client) == waits:
            self.note(time.perf_counter() - begun_s)

    def close(self) -> None:
        """Close the connection that was opened to measure."""
        with self._lock:
            owned, self._owned = self._owned, None
            if owned is not None:
                self._client = None
                owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _measured(self, leaves: Mapping[str, NDArray[Any]]) -> Advice:
        raw_bytes = sum(leaf.nbytes for leaf in leaves.values())
        link = self._link(raw_bytes)
        part, scale = costs.sample(leaves, self._sample_envs)
        groups = costs.measure(part, scale, ("plain", "raw", "lz4"))
        plans = plans_for(groups, link, self._threads)
        if plans["full"].waits_for_link:
            # Smaller still pays only where sending is what takes the time.
            groups = costs.with_way(groups, part, scale, "zstd")
            plans = plans_for(groups, link, self._threads)
        current: PlanName = "none" if self._advice is None else self._advice.plan
        chosen = choose(plans, current)
        self.counts["measured"] += 1
        if chosen != current:
            self.counts["changed"] += 1
        self._strikes = 0
        # So long may it take until a rollout is stored, for a trainer to have it about as soon as
        # one sent as it is.
        self._longest_push_s = (1 + LOSS) * plans["none"].seconds - plans[chosen].pull_s
        advice = advice_for(plans, chosen, link, raw_bytes)
        log.info("rollouts to %s: %s", self._target, advice.reason)
        return advice

    def _link(self, raw_bytes: int) -> Link:
        if self._bandwidth_bytes_per_s is not None:
            return Link(self._bandwidth_bytes_per_s)
        if self._client is None:
            if self._target is None:
                raise InvalidInput(
                    "same_host=False without a target: name it, or its bandwidth_bytes_per_s",
                    field="target",
                )
            self._client = self._owned = open_rollouts(self._target)
        return measure_link(self._client, raw_bytes)


def advise(
    data: Any,
    target: str | Target | RolloutClient | None = None,
    *,
    threads: int = 1,
    sample_envs: int = SAMPLE_ENVS,
    bandwidth_bytes_per_s: float | None = None,
    same_host: bool | None = None,
) -> Advice:
    """Measure once how to encode rollouts like this one to a target.

    Args:
        data: A rollout: nested dicts of arrays or tensors, or a TensorDict.
        target: Where it goes; None for nowhere.
        threads: That encode.
        sample_envs: Environments that the fields are measured on.
        bandwidth_bytes_per_s: Of the way, where it is known; it is not measured then.
        same_host: Whether the target is on this host; None finds out.

    Raises:
        InvalidInput: An argument is not valid.
        PenstockError: The target takes no rollouts.
    """
    with Advisor(
        target,
        threads=threads,
        sample_envs=sample_envs,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        same_host=same_host,
    ) as advisor:
        return advisor.advise(data)


def _waits(client: RolloutClient) -> int:
    return sum(client.counts[name] for name in ("queue_full", "retries", "pushes_resumed"))


def _target_of(target: str | Target | RolloutClient | None) -> Target | None:
    if isinstance(target, RolloutClient):
        return target.target
    return Target.parse(target) if isinstance(target, str) else target
