"""Which checkpoints of a run are kept: rules that are united, and why each one stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from penstock.checkpoints import CheckpointInfo
from penstock.errors import InvalidInput

__all__ = ["Collected", "KeepBest", "RetentionPolicy", "plan_retention"]

_MAX_COUNT = (1 << 32) - 1
_MAX_STEP = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class KeepBest:
    """Keep the best few by a metric; checkpoints without it, or with NaN, do not compete.

    Attributes:
        metric: Name of a metric that the writer gave.
        count: How many.
        higher_is_better: Of two values; the lower one is better if False.

    Raises:
        InvalidInput: The name is empty, or the count is no positive number.
    """

    metric: str
    count: int = 1
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        if not self.metric:
            raise InvalidInput("keep_best names no metric: write val_loss:3", field="keep_best")
        if not 1 <= self.count <= _MAX_COUNT:
            raise InvalidInput(
                f"keep_best of {self.metric} is {self.count}: give how many to keep, 1 or more",
                field="keep_best",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """A rule as it is written in settings: ``val_loss``, ``val_loss:3`` or ``return:3:max``.

        Raises:
            InvalidInput: It is written otherwise.
        """
        metric, _, direction = text.strip().rpartition(":")
        if direction not in {"min", "max"} or not metric:
            metric, direction = text.strip(), "min"
        name, colon, count = metric.rpartition(":")
        if not colon:
            name, count = metric, "1"
        if not count.isdecimal():
            raise InvalidInput(
                f"keep_best {text!r:.160}: {count!r:.80} is no number: write metric:count, and "
                ":max behind it if higher is better, for example val_loss:3 or return:3:max",
                field="keep_best",
            )
        return cls(name, int(count), direction == "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What is kept of a run: the union of the rules, and always what is pinned or tagged.

    Attributes:
        keep_last: The newest so many steps; 0 is no rule.
        keep_every: Steps that are multiples of this; 0 is no rule.
        keep_best: The best by metrics.

    Raises:
        InvalidInput: A number is negative or too large.
    """

    keep_last: int = 0
    keep_every: int = 0
    keep_best: tuple[KeepBest, ...] = ()

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("keep_last", self.keep_last, _MAX_COUNT),
            ("keep_every", self.keep_every, _MAX_STEP),
        ):
            if not 0 <= value <= limit:
                raise InvalidInput(
                    f"{name} is {value}: give a number from 0 (no rule) to {limit}", field=name
                )

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self.keep_last or self.keep_every or self.keep_best)


@dataclass(frozen=True, slots=True)
class Collected:
    """What retention decided, for one run or several.

    Attributes:
        removed: What was removed, or would be.
        kept: Run, step and the reasons of all that stays.
    """

    removed: tuple[CheckpointInfo, ...]
    kept: tuple[tuple[str, int, tuple[str, ...]], ...]

    @property
    def freed_bytes(self) -> int:
        """Size of what was removed."""
        return sum(info.size_bytes for info in self.removed)


def plan_retention(
    checkpoints: Sequence[CheckpointInfo],
    policy: RetentionPolicy,
    *,
    also: Mapping[int, str] | None = None,
) -> Mapping[int, tuple[str, ...]]:
    """Decide what of one run stays; what is not in the answer may go.

    Kept are the newest ``keep_last``, multiples of ``keep_every``, the best of each metric (ties
    go to the newer step), what is pinned, what has a tag, and the bases of all these. A checkpoint
    that is damaged, or whose base is damaged or gone, takes no place of ``keep_last`` or
    ``keep_best``: it stays as long as it would have, beside as many intact ones, and its reason
    says so.

    Args:
        checkpoints: Of one run, all of them, in any order.
        policy: The rules.
        also: Steps that stay besides, with the reason.

    Returns:
        The steps that stay, ascending, and why: ``last 3``, ``every 1000``, ``best val_loss``,
        ``pinned``, ``tagged best``, ``base of 120``, ``last 3, damaged and not counted``.

    Raises:
        InvalidInput: The policy has no rule.
    """
    if not policy:
        raise InvalidInput(
            "the retention policy has no rule and keeps nothing: give keep_last, keep_every or "
            "keep_best",
            field="policy",
        )
    kept = _Kept(checkpoints)
    kept.first(kept.newest_first, policy.keep_last, f"last {policy.keep_last}")
    for info in kept.newest_first:
        if policy.keep_every and info.step % policy.keep_every == 0:
            kept.add(info.step, f"every {policy.keep_every}")
    for rule in policy.keep_best:
        kept.first(_ranked(kept.newest_first, rule), rule.count, f"best {rule.metric}")
    for info in kept.newest_first:
        if info.pinned:
            kept.add(info.step, "pinned")
        for tag in info.tags:
            kept.add(info.step, f"tagged {tag}")
    for step, reason in (also or {}).items():
        kept.add(step, reason)
    kept.add_bases()
    return {step: tuple(kept.reasons[step]) for step in sorted(kept.reasons)}


class _Kept:
    """Collects the reasons why steps stay.

    Args:
        checkpoints: Of one run, all of them.
    """

    def __init__(self, checkpoints: Sequence[CheckpointInfo]) -> None:
        self._by_step = {info.step: info for info in checkpoints}
        self.newest_first = [self._by_step[step] for step in sorted(self._by_step, reverse=True)]
        self.reasons: dict[int, list[str]] = {}

    def add(self, step: int, reason: str) -> None:
        """Keep a step if the run has it."""
        if step in self._by_step:
            self.reasons.setdefault(step, []).append(reason)

    def first(self, ranked: Sequence[CheckpointInfo], count: int, reason: str) -> None:
        """Keep the first ``count`` usable ones, and the damaged ones between them."""
        for info in ranked:
            if count == 0:
                return
            if self._is_usable(info):
                count -= 1
                self.add(info.step, reason)
            else:
                self.add(info.step, f"{reason}, damaged and not counted")

    def add_bases(self) -> None:
        """Keep the base of all that is kept."""
        waiting = sorted(self.reasons, reverse=True)
        while waiting:
            step = waiting.pop()
            base = self._by_step[step].base_step
            if base is not None:
                if base in self._by_step and base not in self.reasons:
                    waiting.append(base)
                self.add(base, f"base of {step}")

    def _is_usable(self, info: CheckpointInfo) -> bool:
        if info.damaged or info.base_step is None:
            return not info.damaged
        base = self._by_step.get(info.base_step)
        return base is not None and not base.damaged


def _ranked(newest_first: Sequence[CheckpointInfo], rule: KeepBest) -> list[CheckpointInfo]:
    """Best first; the sort is stable, so that ties stay with the newer step in front."""
    competing = [
        info for info in newest_first if not math.isnan(info.metrics.get(rule.metric, math.nan))
    ]
    sign = -1.0 if rule.higher_is_better else 1.0
    return sorted(competing, key=lambda info: sign * info.metrics[rule.metric])
