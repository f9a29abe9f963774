"""Plans: the settings that fix, with a dataset's version, which transitions make up each step.

:class:`penstock.plan_view.PlanView` resolves them. The position of a run is one integer.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, SupportsIndex, cast, get_args

from penstock.errors import InvalidInput

__all__ = ["MAX_TRANSITIONS", "Plan", "Sampling", "Split"]

Split = Literal["train", "val", "all"]
Sampling = Literal["uniform", "epoch", "weighted"]

MAX_TRANSITIONS = 65_536
"""Of one step: what one call of a server may ask for."""
_MAX_PARTS = 64
_MAX_TEXT = 4096
_INTEGERS = ("seed", "batch_size", "num_traj", "rank", "world", "window")
_ADDED = ("window", "mixture", "weight_column")
"""Left out of stored plans while unused, so that plans stored before they existed stay equal."""


@dataclass(frozen=True)
class Plan:
    """Fixes, with a dataset's version, the transitions of every step.

    Attributes:
        seed: Any integer from 0 to 2**63 - 1.
        batch_size: Windows of one step and rank; transitions, unless ``window`` is given.
        split: Whole episodes are in ``train`` or ``val`` for good, also when files are added.
        train_fraction: Expected share of episodes in ``train``.
        sampling: ``uniform`` draws with replacement; ``epoch`` draws every transition once per
            epoch, and batches run on across the end of an epoch; ``weighted`` draws with
            replacement, in proportion to the transitions' weights.
        num_traj: Only the first so many episodes of the dataset (before the split); None: all.
        rank: This process among ``world`` that share the plan: its step ``s`` is step
            ``s * world + rank`` of the same plan for one process.
        world: How many processes share the plan.
        window: Transitions of a window, K. A draw is the first transition of a window; the K - 1
            after it follow, and beyond the end of the episode its last transition repeats. With
            ``epoch`` every transition is the first of a window once per epoch.
        mixture: Parts of the dataset and their shares, ``(("sim/*", 0.3), ("real/*", 0.7))``:
            shell patterns of file ids (``*`` also matches ``/``) and weights above 0. A file
            belongs to the first part that matches it; files that match none are left out.
        weight_column: Name of the weight column that ``weighted`` draws by; empty for weights
            that the caller gives.
    """

    seed: int = 0
    batch_size: int = 256
    split: Split = "train"
    train_fraction: float = 0.9
    sampling: Sampling = "uniform"
    num_traj: int | None = None
    rank: int = 0
    world: int = 1
    window: int = 1
    mixture: tuple[tuple[str, float], ...] = ()
    weight_column: str = ""

    def __post_init__(self) -> None:
        for name in _INTEGERS:
            self._make_integer(name)
        _require(
            isinstance(self.train_fraction, Real), "train_fraction", self.train_fraction, "a number"
        )
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2**63 - 1")
        self._check_in("split", Split)
        self._check_in("sampling", Sampling)
        _require(
            0.0 < self.train_fraction <= 1.0,
            "train_fraction",
            self.train_fraction,
            "above 0 and at most 1",
        )
        _require(
            self.num_traj is None or self.num_traj >= 1,
            "num_traj",
            self.num_traj,
            "at least 1, or None for all episodes",
        )
        _require(self.world >= 1, "world", self.world, "at least 1")
        _require(0 <= self.rank < self.world, "rank", self.rank, f"from 0 to {self.world - 1}")
        self._check_size()
        self._make_mixture()
        self._check_weights()

    @property
    def transitions_per_step(self) -> int:
        """Rows of one batch: ``batch_size * window``."""
        return self.batch_size * self.window

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Build a plan from a mapping.

        Raises:
            InvalidInput: A field is unknown, of another type, or out of range.
        """
        known = {item.name for item in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise InvalidInput(
                    f"plan.{name} is {value!r}, but a plan has no {name!r}: its fields are "
                    f"{', '.join(sorted(known))}",
                    field=f"plan.{name}",
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as plain values that JSON keeps; window, mixture and column only if used."""
        values = asdict(self)
        unused = asdict(Plan())
        for name in _ADDED:
            if values[name] == unused[name]:
                del values[name]
        if self.mixture:
            values["mixture"] = [list(part) for part in self.mixture]
        return values

    def _make_integer(self, name: str) -> None:
        """Have NumPy's integers as Python's, so that a plan can be stored; refuse what is none."""
        value: object = getattr(self, name)
        if value is None and name == "num_traj":
            return
        _require(isinstance(value, SupportsIndex), name, value, "an integer")
        object.__setattr__(self, name, operator.index(cast("SupportsIndex", value)))

    def _check_in(self, name: str, choices: Any) -> None:
        value: object = getattr(self, name)
        allowed = get_args(choices)
        _require(isinstance(value, str) and value in allowed, name, value, f"one of {allowed}")

    def _check_size(self) -> None:
        for name in ("batch_size", "window"):
            size: int = getattr(self, name)
            _require(1 <= size <= MAX_TRANSITIONS, name, size, f"from 1 to {MAX_TRANSITIONS}")
        _require(
            self.transitions_per_step <= MAX_TRANSITIONS,
            "window",
            self.window,
            f"batch_size x window at most {MAX_TRANSITIONS}, with batch_size {self.batch_size} it "
            f"is {self.transitions_per_step}: make one of them smaller",
        )

    def _make_mixture(self) -> None:
        """Have lists as tuples, so that a plan that was stored as JSON equals itself."""
        given = cast("object", self.mixture)
        pairs = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        _require(pairs, "mixture", given, "pairs of pattern and share")
        parts = [self._mixture_part(part) for part in cast("Sequence[object]", given)]
        _require(len(parts) <= _MAX_PARTS, "mixture", parts, f"at most {_MAX_PARTS} parts")
        patterns = [pattern for pattern, _ in parts]
        for pattern in patterns:
            _require(patterns.count(pattern) == 1, "mixture", given, f"{pattern!r} only once")
        _require(
            not parts or self.sampling != "epoch",
            "mixture",
            given,
            "no mixture with sampling 'epoch', which draws every transition equally often: use "
            "'uniform' or 'weighted'",
        )
        object.__setattr__(self, "mixture", tuple(parts))

    def _mixture_part(self, part: object) -> tuple[str, float]:
        pair = list(cast("Sequence[object]", part)) if isinstance(part, list | tuple) else []
        _require(len(pair) == 2, "mixture", part, "a pair of pattern and share")  # noqa: PLR2004
        pattern, share = pair
        if not isinstance(pattern, str) or not 0 < len(pattern) <= _MAX_TEXT:
            raise _wrong("mixture", part, 'a shell pattern of file ids such as "sim/*" first')
        if not isinstance(share, Real) or not 0.0 < float(share) < math.inf:
            raise _wrong("mixture", part, "a finite share above 0")
        return pattern, float(share)

    def _check_weights(self) -> None:
        column = cast("object", self.weight_column)
        _require(
            isinstance(column, str) and len(column) <= _MAX_TEXT,
            "weight_column",
            column,
            "the name of a weight column",
        )
        _require(
            not column or self.sampling == "weighted",
            "weight_column",
            column,
            f"none with sampling {self.sampling!r}: use sampling 'weighted'",
        )


def _wrong(name: str, value: object, expected: str) -> InvalidInput:
    return InvalidInput(f"plan.{name} is {value!r}: expected {expected}", field=f"plan.{name}")


def _require(condition: bool, name: str, value: object, expected: str) -> None:  # noqa: FBT001
    if not condition:
        raise _wrong(name, value, expected)
