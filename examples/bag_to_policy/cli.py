"""The command: all stages, then the summary, the report, and the verdict as exit code."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import torch
from rich.console import Console
from two_arm_reach.behaviour import replay
from two_arm_reach.record import RecordingMismatchError

from bag_to_policy.measurements import size_mb
from bag_to_policy.pictures import contact_sheet, curves_svg
from bag_to_policy.processes import Processes
from bag_to_policy.recipe import ALGORITHMS, Recipe
from bag_to_policy.report import Picture, write_report
from bag_to_policy.stages import Demo, Sampled, Trained
from bag_to_policy.summary import Score, Summary, shortfalls
from penstock.errors import PenstockError

__all__ = ["main"]

_INTERRUPTED = 130
_CLIP_CAPTION = (
    "Roll-outs of LAPO's policy: left hand, scene, right hand. Red is the left arm's goal, blue "
    "the right arm's, green nobody's."
)
_SHEET_CAPTION = (
    "Transitions of step 0, one a column: left, right and global camera, then the same three after "
    "the action."
)


def run(demo: Demo) -> Summary:
    """All stages, then the summary and the report."""
    begun = time.perf_counter()
    demo.convert(demo.record())
    demo.serve()
    sampled = demo.sample()
    trained = demo.evaluate(demo.train(sampled.dataset_version))
    recipe = demo.recipe
    recorded = [replay(recipe.seed, episode) for episode in range(recipe.episodes)]
    folders = ("bags", "lerobot", "hdf5", "checkpoints")
    summary = Summary(
        behaviour=Score.of_recording(recorded),
        bc=trained["bc"].score,
        lapo=trained["lapo"].score,
        batches_per_s=sampled.throughput.batches_per_s,
        seconds=time.perf_counter() - begun,
        stage_seconds=demo.stage_seconds,
        batch_compression=sampled.throughput.compression,
        checkpoint_compression=trained["lapo"].compression,
        training_steps_per_s={
            name: result.report.metrics["batches_per_s"] for name, result in trained.items()
        },
        sizes_mb={name: size_mb(demo.out / name) for name in folders},
    )
    summary.write(demo.out / "summary.json")
    report(demo, summary, sampled, trained)
    return summary


def report(demo: Demo, summary: Summary, sampled: Sampled, trained: dict[str, Trained]) -> None:
    """Write ``report.html``."""
    returns = curves_svg(
        {ALGORITHMS[name]: result.returns for name, result in trained.items()},
        title=f"Return over {demo.recipe.rollouts} roll-outs",
        y_label="mean return",
        level=("recorded behaviour", summary.behaviour.return_mean),
    )
    errors = curves_svg(
        {ALGORITHMS[name]: result.action_error for name, result in trained.items()},
        title="Error of the actions on held-out episodes",
        y_label="mean squared error, z-scores",
    )
    write_report(
        demo.out / "report.html",
        summary,
        curves=[returns, errors],
        clip=Picture(trained["lapo"].clip, _CLIP_CAPTION),
        sheet=Picture(contact_sheet(sampled.batch), _SHEET_CAPTION),
    )


@click.command(epilog="Example: python -m bag_to_policy --out demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder of all that is made; what is there already is not made again.",
)
@click.option("--episodes", type=click.IntRange(min=1), default=Recipe.episodes, show_default=True)
@click.option("--bc-steps", type=click.IntRange(min=1), default=Recipe.bc_steps, show_default=True)
@click.option(
    "--lapo-steps", type=click.IntRange(min=1), default=Recipe.lapo_steps, show_default=True
)
@click.option("--rollouts", type=click.IntRange(min=1), default=Recipe.rollouts, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=Recipe.seed, show_default=True)
def main(
    *, out: Path, episodes: int, bc_steps: int, lapo_steps: int, rollouts: int, seed: int
) -> None:
    """From a rosbag to a policy, on this machine, with every service as a process of its own.

    Records a simulated robot, converts its bags, serves them, trains by behaviour cloning and by
    LAPO, and measures the policies. Exits with 0 if LAPO is clearly better than both the recording
    and behaviour cloning, else with 1.
    """
    # SIGINT too: a shell without job control starts what is in the background with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _as_interrupt)
    # A terminal that is closed ends the demo, unless it was started by nohup.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _as_interrupt)
    # The networks are small: one thread is faster than two.
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    recipe = Recipe(
        episodes=episodes,
        bc_steps=bc_steps,
        lapo_steps=lapo_steps,
        rollouts=rollouts,
        seed=seed,
    )
    try:
        with Processes(out.resolve() / "logs", console.print) as processes:
            summary = run(Demo(out.resolve(), recipe, processes, console))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(_INTERRUPTED)
    except (PenstockError, RecordingMismatchError) as error:
        console.print(f"[red]error: {error}")
        sys.exit(1)
    console.rule("[bold]result", align="left")
    console.print(summary.table())
    for name, value in summary.figures().items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(f"report: {os.path.relpath(out / 'report.html')}")
    missed = shortfalls(summary)
    for reason in missed:
        console.print(f"[red]{reason}")
    sys.exit(1 if missed else 0)


def _as_interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
