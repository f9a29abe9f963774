"""Plans: which transitions make up step ``t``, as a pure function of plan and episode table.

Uniform plans draw with replacement from the counter-based generator Philox (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011). Epoch plans walk through a permutation
made by a Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002): exact, any size, no memory. The position of a run is one integer.
"""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, SupportsIndex, cast, get_args

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import EpisodeTable
from penstock.errors import InvalidInput

__all__ = ["Plan", "PlanView"]

Split = Literal["train", "val", "all"]
Sampling = Literal["uniform", "epoch"]

_MAX_BATCH = 65_536
_INTEGERS = ("seed", "batch_size", "num_traj", "rank", "world")
_ROUNDS = 6
_U64 = np.uint64
_LOW32 = _U64(0xFFFFFFFF)


@dataclass(frozen=True)
class Plan:
    """Fixes, with a dataset's version, the transitions of every step.

    Attributes:
        seed: Any integer from 0 to 2**63 - 1.
        batch_size: Transitions of one step and rank.
        split: Whole episodes are in ``train`` or ``val`` for good, also when files are added.
        train_fraction: Expected share of episodes in ``train``.
        sampling: ``uniform`` draws with replacement; ``epoch`` gives every transition once per
            epoch, and batches run on across the end of an epoch.
        num_traj: Only the first so many episodes of the dataset (before the split); None: all.
        rank: This process among ``world`` that share the plan and get disjoint batches.
        world: How many processes share the plan.
    """

    seed: int = 0
    batch_size: int = 256
    split: Split = "train"
    train_fraction: float = 0.9
    sampling: Sampling = "uniform"
    num_traj: int | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        for name in _INTEGERS:
            self._make_integer(name)
        _require(
            isinstance(self.train_fraction, Real), "train_fraction", self.train_fraction, "a number"
        )
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2**63 - 1")
        _require(
            1 <= self.batch_size <= _MAX_BATCH,
            "batch_size",
            self.batch_size,
            f"from 1 to {_MAX_BATCH}",
        )
        _require(self.split in get_args(Split), "split", self.split, f"one of {get_args(Split)}")
        _require(
            0.0 < self.train_fraction <= 1.0,
            "train_fraction",
            self.train_fraction,
            "above 0 and at most 1",
        )
        _require(
            self.sampling in get_args(Sampling),
            "sampling",
            self.sampling,
            f"one of {get_args(Sampling)}",
        )
        _require(
            self.num_traj is None or self.num_traj >= 1,
            "num_traj",
            self.num_traj,
            "at least 1, or None for all episodes",
        )
        _require(self.world >= 1, "world", self.world, "at least 1")
        _require(0 <= self.rank < self.world, "rank", self.rank, f"from 0 to {self.world - 1}")

    def _make_integer(self, name: str) -> None:
        """Have NumPy's integers as Python's, so that a plan can be stored; refuse what is none."""
        value: object = getattr(self, name)
        if value is None and name == "num_traj":
            return
        _require(isinstance(value, SupportsIndex), name, value, "an integer")
        object.__setattr__(self, name, operator.index(cast("SupportsIndex", value)))

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
        """The fields, as plain values."""
        return asdict(self)


class PlanView:
    """A plan seen over one episode table; resolving a step costs O(batch * log episodes).

    Raises:
        InvalidInput: The split has no transitions, or fewer than one batch of an epoch plan.
    """

    def __init__(self, plan: Plan, episodes: EpisodeTable) -> None:
        self.plan = plan
        starts = episodes.first_transition
        chosen = np.arange(len(episodes))[: plan.num_traj]
        chosen = chosen[episodes.length[chosen] > 0]
        if plan.split != "all":
            # The top 53 bits as a number in [0, 1): exact in float64.
            place = (episodes.split_key[chosen] >> _U64(11)).astype(np.float64) / 2.0**53
            in_train = place < plan.train_fraction
            chosen = chosen[in_train if plan.split == "train" else ~in_train]
        self._first = starts[chosen]
        self._ends = np.cumsum(episodes.length[chosen], dtype=np.int64)
        self.episodes = len(chosen)
        self.transitions = int(self._ends[-1]) if len(chosen) else 0
        if self.transitions == 0:
            raise InvalidInput(
                f"split {plan.split!r} has no transitions (train_fraction "
                f"{plan.train_fraction}, {len(episodes)} episodes in the dataset, num_traj "
                f"{plan.num_traj}): change train_fraction or use split 'all'",
                field="plan.split",
            )
        if plan.sampling == "epoch" and plan.batch_size * plan.world > self.transitions:
            raise InvalidInput(
                f"batch_size {plan.batch_size} x world {plan.world} is larger than the split "
                f"{plan.split!r} with {self.transitions} transitions: make the batch smaller",
                field="plan.batch_size",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every transition was given at least once by an epoch plan."""
        return -(-self.transitions // (self.plan.batch_size * self.plan.world))

    def transition_ids(self, step: int) -> NDArray[np.int64]:
        """Ids of the transitions of ``step``, ``(batch_size,) int64``."""
        if step < 0:
            raise InvalidInput(f"step {step}: steps count from 0", field="step")
        uniform = self.plan.sampling == "uniform"
        places = self._draw(step) if uniform else self._walk(step)
        episode = np.searchsorted(self._ends, places, side="right")
        before = np.where(episode > 0, self._ends[episode - 1], 0)
        return self._first[episode] + (places - before)

    def _draw(self, step: int) -> NDArray[np.int64]:
        block = step * self.plan.world + self.plan.rank
        # The block counts in the second word, so that no two blocks overlap.
        philox = np.random.Philox(key=self.plan.seed, counter=[0, block, 0, 0])
        raw = philox.random_raw(self.plan.batch_size)
        return _scale(raw, self.transitions)

    def _walk(self, step: int) -> NDArray[np.int64]:
        size, total = self.plan.batch_size, self.transitions
        begin = (step * self.plan.world + self.plan.rank) * size
        epoch, offset = divmod(begin, total)
        places = np.arange(offset, offset + size, dtype=np.int64)
        out = np.empty(size, np.int64)
        later = places >= total
        out[~later] = _permute(places[~later], total, self.plan.seed, epoch)
        out[later] = _permute(places[later] - total, total, self.plan.seed, epoch + 1)
        return out


def _scale(raw: NDArray[np.uint64], total: int) -> NDArray[np.int64]:
    """High 64 bits of ``raw * total``: uniform in [0, total), bias below total / 2**64."""
    high, low = raw >> _U64(32), raw & _LOW32
    factor_high, factor_low = _U64(total >> 32), _U64(total & 0xFFFFFFFF)
    middle = high * factor_low + ((low * factor_low) >> _U64(32))
    carry = (low * factor_high + (middle & _LOW32)) >> _U64(32)
    return (high * factor_high + (middle >> _U64(32)) + carry).astype(np.int64)


def _permute(places: NDArray[np.int64], total: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where a seeded permutation of [0, total) sends each place."""
    half_bits = max(1, -(-max(total - 1, 1).bit_length() // 2))
    half, mask = _U64(half_bits), _U64((1 << half_bits) - 1)
    key = np.random.Philox(key=seed, counter=[0, 0, epoch, 1]).random_raw(_ROUNDS)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), np.bool_)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in key:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[outside] = (left << half) | right
        outside = values >= _U64(total)
    return values.astype(np.int64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> _U64(27))) * _U64(0x94D049BB133111EB)
    return value ^ (value >> _U64(31))


def _require(condition: bool, name: str, value: object, expected: str) -> None:  # noqa: FBT001
    if not condition:
        raise InvalidInput(f"plan.{name} is {value!r}: expected {expected}", field=f"plan.{name}")
