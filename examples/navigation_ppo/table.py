"""What people see of a run: a line for each rollout, and the verdict."""

from __future__ import annotations

from collections.abc import Callable

from navigation_ppo.ppo import Learner
from navigation_ppo.settings import BAR_SUCCESS
from navigation_ppo.trainer import Record

__all__ = ["heading", "line_of", "verdict"]

_COLUMNS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("rollout", lambda r: f"{r.rollout}"),
    ("number", lambda r: f"{r.sequence}"),
    ("iteration", lambda r: f"{r.iteration}"),
    ("policy", lambda r: f"{r.policy_version}"),
    ("staleness", lambda r: f"{r.staleness}"),
    ("skipped", lambda r: f"{r.skipped_stale}"),
    ("attempt", lambda r: f"{r.attempt}"),
    ("return", lambda r: f"{r.mean_return:.2f}"),
    ("success", lambda r: f"{r.success:.0%}"),
    ("pull ms", lambda r: f"{r.pull_ms:.0f}"),
    ("learn ms", lambda r: f"{r.learn_ms:.0f}"),
)


def heading() -> str:
    """Names of the columns."""
    return "  ".join(name for name, _ in _COLUMNS)


def line_of(record: Record) -> str:
    """A rollout, below them."""
    return "  ".join(show(record).rjust(len(name)) for name, show in _COLUMNS)


def verdict(learner: Learner) -> tuple[bool, str]:
    """Whether a run passed, and the words for it."""
    passed = learner.success >= BAR_SUCCESS
    return passed, (
        f"{'passed' if passed else 'missed'} the bar of {BAR_SUCCESS:.0%}: {learner.success:.1%} "
        f"of the last {len(learner.outcomes)} episodes reached the goal, mean return "
        f"{learner.mean_return:.2f}, after {learner.trained} rollouts"
    )
