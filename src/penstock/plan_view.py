"""A plan seen over one dataset: the transitions of any step, without the steps before it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.dataset import DataFile, EpisodeTable
from penstock.draws import Stream, permute, raw_words, scale, unit
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.weighted import WeightedPlaces
from penstock.weights import Priorities, check_weights

__all__ = ["Draw", "PlanView"]


class Draw(NamedTuple):
    """The transitions of one step, window after window.

    Attributes:
        transition_ids: ``(batch_size * window,) int64``.
        mask: Same shape, bool: false where a window has left its episode and repeats its last
            transition.
    """

    transition_ids: NDArray[np.int64]
    mask: NDArray[np.bool_]


class PlanView:
    """A plan over one dataset; resolving a step costs O(batch * log episodes).

    A place is the number of a transition among those that the plan may draw.

    Args:
        plan: What to draw.
        episodes: Of the dataset.
        files: Of the dataset, for a mixture.
        weights: ``(transitions,)``, one per transition of the dataset, for ``weighted``. A
            read-only array is summed once, :class:`penstock.weights.Priorities` where they
            changed, and any other array anew at each step: changes count from the next step on.

    Attributes:
        episodes: Episodes that the plan draws from.
        transitions: Their transitions.
        remarks: What the user should know of, one sentence each.

    Raises:
        InvalidInput: The split or a part of the mixture has no transitions, an epoch has fewer
            than one batch, or the weights do not fit.
    """

    def __init__(
        self,
        plan: Plan,
        episodes: EpisodeTable,
        *,
        files: Sequence[DataFile] = (),
        weights: ArrayLike | Priorities | None = None,
    ) -> None:
        self.plan = plan
        self.remarks: tuple[str, ...] = ()
        starts = episodes.first_transition
        chosen = np.arange(len(episodes))[: plan.num_traj]
        chosen = chosen[episodes.length[chosen] > 0]
        if plan.split != "all":
            in_train = unit(episodes.split_key[chosen]) < plan.train_fraction
            chosen = chosen[in_train if plan.split == "train" else ~in_train]
        if len(chosen) == 0:
            raise InvalidInput(
                f"split {plan.split!r} has no transitions (train_fraction "
                f"{plan.train_fraction}, {len(episodes)} episodes in the dataset, num_traj "
                f"{plan.num_traj}): change train_fraction or use split 'all'",
                field="plan.split",
            )
        counts = [len(chosen)]
        if plan.mixture:
            chosen, counts = self._by_part(chosen, episodes, files)
        self._first = starts[chosen]
        self._ends = np.cumsum(episodes.length[chosen], dtype=np.int64)
        self._bounds = np.concatenate([[0], self._ends[np.cumsum(counts) - 1]])
        self._shares = np.cumsum([share for _, share in plan.mixture] or [1.0])
        self.episodes, self.transitions = len(chosen), int(self._ends[-1])
        self._check_size()
        self._weighted = self._weigh(int(starts[-1]), weights)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every transition was drawn at least once by an epoch plan."""
        return -(-self.transitions // (self.plan.batch_size * self.plan.world))

    def transition_ids(self, step: int) -> NDArray[np.int64]:
        """Ids of the transitions of ``step``, ``(batch_size * window,) int64``."""
        return self.draw(step).transition_ids

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Which transitions of ``step`` are no padding, ``(batch_size * window,) bool``."""
        return self.draw(step).mask

    def draw(self, step: int) -> Draw:
        """The transitions of ``step`` and their mask.

        Raises:
            InvalidInput: The step is negative, or weights that change have become all zero.
        """
        if step < 0:
            raise InvalidInput(f"step {step}: steps count from 0", field="step")
        places = self._places(step)
        episode = np.searchsorted(self._ends, places, side="right")
        before = np.where(episode > 0, self._ends[episode - 1], 0)
        shift = self._first[episode] - before
        first = places + shift
        window = self.plan.window
        if window == 1:
            return Draw(first, np.ones(len(first), np.bool_))
        last = (self._ends[episode] + shift - 1)[:, np.newaxis]
        ids = first[:, np.newaxis] + np.arange(window)
        mask = ids <= last
        return Draw(np.minimum(ids, last).reshape(-1), mask.reshape(-1))

    def _places(self, step: int) -> NDArray[np.int64]:
        plan = self.plan
        if plan.sampling == "epoch":
            return self._walk(step)
        block = step * plan.world + plan.rank
        words = raw_words(plan.seed, Stream.PLACE, block, plan.batch_size)
        part = np.zeros(plan.batch_size, np.int64)
        if len(self._shares) > 1:
            fraction = unit(raw_words(plan.seed, Stream.PART, block, plan.batch_size))
            # A product may round up to the total, which is in the last part.
            part = np.searchsorted(self._shares[:-1], fraction * self._shares[-1], side="right")
        if self._weighted:
            within = raw_words(plan.seed, Stream.WITHIN, block, plan.batch_size)
            return self._weighted.draw(part, words, within)
        begin = self._bounds[part]
        return begin + scale(words, self._bounds[part + 1] - begin)

    def _walk(self, step: int) -> NDArray[np.int64]:
        size, total, seed = self.plan.batch_size, self.transitions, self.plan.seed
        begin = (step * self.plan.world + self.plan.rank) * size
        epoch, offset = divmod(begin, total)
        places = np.arange(offset, offset + size, dtype=np.int64)
        out = np.empty(size, np.int64)
        later = places >= total
        out[~later] = permute(places[~later], total, seed, epoch)
        out[later] = permute(places[later] - total, total, seed, epoch + 1)
        return out

    def _by_part(
        self, chosen: NDArray[np.int64], episodes: EpisodeTable, files: Sequence[DataFile]
    ) -> tuple[NDArray[np.int64], list[int]]:
        """Order episodes by the part of the mixture they belong to; leave out those of none."""
        patterns = [pattern for pattern, _ in self.plan.mixture]
        part_of_file = np.array([_first_match(file.file_id, patterns) for file in files], np.int64)
        if len(part_of_file) <= int(episodes.file.max()):
            raise InvalidInput(
                f"a mixture needs the dataset's files: {len(part_of_file)} are given, episodes are "
                f"of {int(episodes.file.max()) + 1}",
                field="files",
            )
        part = part_of_file[episodes.file[chosen]]
        counts = [int((part == number).sum()) for number in range(len(patterns))]
        for pattern, number in zip(patterns, range(len(patterns)), strict=True):
            if not counts[number]:
                matched = int((part_of_file == number).sum())
                raise InvalidInput(
                    f"plan.mixture part {pattern!r} has no transitions in split "
                    f"{self.plan.split!r} ({matched} of {len(files)} files belong to it, num_traj "
                    f"{self.plan.num_traj}): mend the pattern, or leave the part out",
                    field="plan.mixture",
                )
        unmatched = np.flatnonzero(part_of_file < 0)
        if len(unmatched):
            self._remark(
                f"{len(unmatched)} of {len(files)} files match no part of the mixture and are "
                f"left out, the first is {files[int(unmatched[0])].file_id}"
            )
        order = np.argsort(part, kind="stable")
        return chosen[order[len(part) - sum(counts) :]], counts

    def _check_size(self) -> None:
        plan = self.plan
        if plan.sampling == "epoch" and plan.batch_size * plan.world > self.transitions:
            raise InvalidInput(
                f"batch_size {plan.batch_size} x world {plan.world} is larger than the split "
                f"{plan.split!r} with {self.transitions} transitions: make the batch smaller",
                field="plan.batch_size",
            )
        if plan.batch_size > self.transitions:
            self._remark(
                f"batch_size {plan.batch_size} is larger than the split {plan.split!r} with "
                f"{self.transitions} transitions: drawn with replacement, every batch repeats some"
            )

    def _remark(self, sentence: str) -> None:
        self.remarks = (*self.remarks, sentence)

    def _weigh(self, total: int, given: ArrayLike | Priorities | None) -> WeightedPlaces | None:
        plan = self.plan
        if plan.sampling != "weighted":
            if given is not None:
                raise InvalidInput(
                    f"weights are given, but plan.sampling is {plan.sampling!r}: use 'weighted'",
                    field="plan.sampling",
                )
            return None
        if given is None:
            raise InvalidInput(
                f"plan.weight_column is {plan.weight_column!r} and no weights are given: sampling "
                "'weighted' needs one of them",
                field="plan.weight_column",
            )
        weights = given if isinstance(given, Priorities) else np.asarray(given)
        if isinstance(weights, np.ndarray):
            check_weights(weights[:0], 0)  # their kind; their values are looked at when summed
        if len(weights) != total:
            raise InvalidInput(
                f"{len(weights)} weights are given, the dataset has {total} transitions: give one "
                "for each, also for those of other splits",
                field="weights",
            )
        names = [f"part {pattern!r}" for pattern, _ in plan.mixture] or [f"split {plan.split!r}"]
        return WeightedPlaces(self._first, self._ends, self._bounds, weights, names)


def _first_match(file_id: str, patterns: list[str]) -> int:
    for number, pattern in enumerate(patterns):
        if fnmatchcase(file_id, pattern):
            return number
    return -1
