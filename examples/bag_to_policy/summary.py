"""What came out: the table on the terminal, ``summary.json``, and whether it is good enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from two_arm_reach.behaviour import EpisodeSummary
from two_arm_reach.evaluate import Evaluation

__all__ = ["Score", "Summary", "shortfalls"]

GAIN_OVER_BEHAVIOUR = 4.0
GAIN_OVER_BC = 5.0


@dataclass(frozen=True)
class Score:
    """How well something reaches: undiscounted returns and successes over ``episodes``."""

    return_mean: float
    return_std: float
    success_rate: float
    episodes: int

    @classmethod
    def of_evaluation(cls, evaluation: Evaluation) -> Score:
        """The score of a policy."""
        return cls(
            evaluation.average_return,
            evaluation.std_return,
            evaluation.success_rate,
            len(evaluation.returns),
        )

    @classmethod
    def of_recording(cls, episodes: list[EpisodeSummary]) -> Score:
        """The score of what was recorded."""
        count = len(episodes)
        mean = sum(episode.episode_return for episode in episodes) / count
        variance = sum((episode.episode_return - mean) ** 2 for episode in episodes) / count
        successes = sum(episode.success for episode in episodes)
        return cls(mean, variance**0.5, successes / count, count)


@dataclass(frozen=True)
class Summary:
    """All figures of one run of the demo.

    Attributes:
        behaviour: The recorded episodes.
        bc: The policy of behaviour cloning.
        lapo: The policy of LAPO.
        batches_per_s: Batches that the sampler gave to one client that did nothing else.
        seconds: Wall time of this run; what an earlier run had done costs nothing.
        stage_seconds: Wall time by stage.
        batch_compression: Raw bytes to bytes on the wire.
        checkpoint_compression: Tensor bytes to stored bytes.
        training_steps_per_s: Optimiser steps by algorithm, as the trainer reported last.
        sizes_mb: Megabytes of what lies on disk, by name.
    """

    behaviour: Score
    bc: Score
    lapo: Score
    batches_per_s: float
    seconds: float
    stage_seconds: Mapping[str, float]
    batch_compression: float
    checkpoint_compression: float
    training_steps_per_s: Mapping[str, float]
    sizes_mb: Mapping[str, float]

    def write(self, path: Path) -> None:
        """Write it as JSON; the file is complete or not there."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")
        partial.replace(path)

    def scores(self) -> dict[str, Score]:
        """What is compared, by the name that people read."""
        return {
            "recorded behaviour": self.behaviour,
            "behaviour cloning": self.bc,
            "LAPO": self.lapo,
        }

    def figures(self) -> dict[str, str]:
        """The other figures, ready to print."""
        steps = ", ".join(f"{name} {rate:.0f}" for name, rate in self.training_steps_per_s.items())
        sizes = ", ".join(f"{name} {size:.1f} MB" for name, size in self.sizes_mb.items())
        return {
            "sampler, batches/s": f"{self.batches_per_s:.0f}",
            "training, steps/s": steps,
            "compression of batches": f"{self.batch_compression:.2f}",
            "compression of checkpoints": f"{self.checkpoint_compression:.2f}",
            "on disk": sizes,
            "seconds": f"{self.seconds:.0f}",
        }

    def table(self) -> Table:
        """The scores as a table for the terminal."""
        table = Table("policy", "mean return", "std", "success", "episodes")
        for name, score in self.scores().items():
            table.add_row(
                name,
                f"{score.return_mean:.2f}",
                f"{score.return_std:.2f}",
                f"{score.success_rate:.0%}",
                str(score.episodes),
            )
        return table


def shortfalls(summary: Summary) -> list[str]:
    """Why the result is not good enough, one line a reason; empty when it is."""
    lapo = summary.lapo.return_mean
    goals = {
        "the recorded behaviour": (summary.behaviour.return_mean, GAIN_OVER_BEHAVIOUR),
        "behaviour cloning": (summary.bc.return_mean, GAIN_OVER_BC),
    }
    return [
        f"LAPO's mean return {lapo:.2f} is less than {gain:.0f} above {name} ({base:.2f})"
        for name, (base, gain) in goals.items()
        if not lapo >= base + gain
    ]
