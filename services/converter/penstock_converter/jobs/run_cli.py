"""``penstock convert run``: recordings into a dataset, with a table of how far each is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock_converter.exit_status import PARTLY, UNSOUND
from penstock_converter.hub_cli import Upload, upload_options
from penstock_converter.scale.scale_cli import Scale, scale_options

if TYPE_CHECKING:
    from rich.console import Console

    from penstock_converter.jobs.outcome import Outcome
    from penstock_converter.jobs.request import Job

__all__ = ["run"]


@click.command("run")
@click.argument("inputs", nargs=-1, required=True, metavar="BAG... [KEY=VALUE]...")
@click.option(
    "--mapping",
    type=click.Path(path_type=Path),
    required=True,
    help="YAML file, or a preset: which topic becomes which feature.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the dataset; appears when it is complete.",
)
@click.option(
    "--hdf5",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the HDF5 files.  [default: hdf5 in OUT, if the mapping asks for them]",
)
@click.option("--overwrite", is_flag=True, help="Replace a dataset that was made differently.")
@click.option("--append", is_flag=True, help="Add what a dataset of the same mapping has not yet.")
@click.option(
    "--definitions",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Folder or .msg file of message types that recordings do not define; may be repeated.",
)
@click.option("--no-validate", is_flag=True, help="Do not check the dataset after it was made.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Recordings at a time, a process each.  [default: half the cores, as memory allows]",
)
@scale_options
@upload_options
def run(
    inputs: tuple[str, ...],
    mapping: Path,
    out: Path,
    hdf5: Path | None,
    workers: int | None,
    definitions: tuple[Path, ...],
    *,
    no_validate: bool,
    overwrite: bool,
    append: bool,
    scale: Scale,
    upload: Upload,
) -> None:
    """Turn recordings into one dataset: LeRobot v3.0, HDF5 for the sampler, or both.

    BAG is a ROS 1 .bag, a ROS 2 .mcap or .db3 file or the folder of a recording, or a folder of
    such; each becomes an episode. KEY=VALUE changes the mapping. A recording that cannot be
    converted is reported and the others go on. Doing it again reuses what is there, and takes up
    what was interrupted.

    The exit status is 0 when all recordings were converted, 3 when some were refused, 1 when
    nothing was made, 4 when the dataset was made and not uploaded, 5 when the checks that follow
    found a fault in it.

    \b
    Examples:
      penstock convert session.bag --mapping robot.yaml --out dataset
      penstock convert bags/ --mapping robot.yaml --out dataset --hdf5 files
      penstock convert tuesday/ --mapping robot.yaml --out dataset --append
      penstock convert bags/*.mcap --mapping robot.yaml --out dataset rosbag.chunk_size=200 fps=15
      penstock convert bags/ --mapping kuavo --out dataset task="Sort the parcels."
    """
    # Threads of its own would only take memory: nothing here is linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from rich.console import Console

    from penstock.allocator import share_heap
    from penstock_converter.jobs.job import run_job
    from penstock_converter.jobs.live import LiveReport
    from penstock_converter.jobs.request import HDF5_FOLDER, Job
    from penstock_converter.mapping.parsing import load_mapping
    from penstock_converter.quiet import hush_logs
    from penstock_converter.recordings.definitions import load_definitions
    from penstock_converter.recordings.discovery import find_bags

    share_heap()

    # The table below says what the log would.
    hush_logs()
    names = [text for text in inputs if "=" not in text or Path(text).exists()]
    overrides = [text for text in inputs if text not in names]
    if not names:
        raise click.UsageError("name at least one recording")
    bags = find_bags(names)
    # A path such as "." gets the name that staging needs.
    out, hdf5 = out.absolute(), hdf5.absolute() if hdf5 else None
    if hdf5 == out / HDF5_FOLDER:
        hdf5 = None
    chosen = load_mapping(mapping, overrides)
    if definitions:
        chosen = chosen.with_definitions(load_definitions(definitions))
    job = Job(
        tuple(bags),
        chosen,
        out,
        hdf5,
        overwrite=overwrite,
        append=append,
        workers=workers,
    )
    upload.check(job.mapping, hdf5)
    token = scale.stage(job, uploads=upload.repo_id is not None)
    console = Console(stderr=True)
    with _cancelled_by_sigterm() as cancelled, LiveReport(console, len(bags)) as report:
        outcome = run_job(job, report.show, cancelled.is_set, token)
        if outcome.reused:
            report.finish("done before")
    _tell(console, outcome, out)
    if not outcome.converted:
        raise SystemExit(1)
    if not (no_validate or _check(console, job, outcome)):
        # What has faults is for people to look at before others get it.
        upload.tell_unsound(out)
        raise SystemExit(UNSOUND)
    upload.push(out)
    if outcome.refused:
        raise SystemExit(PARTLY)


@contextmanager
def _cancelled_by_sigterm() -> Generator[threading.Event]:
    """Let SIGTERM end the conversion as Ctrl-C does: with nothing half done left behind."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _check(console: Console, job: Job, outcome: Outcome) -> bool:
    """Check what was made; returns whether it is sound."""
    from penstock_converter.checks.after import check_made
    from penstock_converter.checks.report import show_findings

    found = check_made(job, outcome)
    if found is not None:
        show_findings(console, found)
    return found is None or found.passed


def _tell(console: Console, outcome: Outcome, out: Path) -> None:
    from rich.markup import escape

    for bag in outcome.refused:
        console.print(
            f"[red]refused[/red] {escape(bag.error)} [dim]({bag.reason})[/dim]", soft_wrap=True
        )
    for bag in outcome.converted:
        for warning in bag.warnings:
            console.print(
                f"[yellow]look at[/yellow] {escape(bag.bag)}: {escape(warning)}", soft_wrap=True
            )
    dropped: dict[str, int] = {}
    for bag in outcome.converted:
        for reason, count in bag.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    for reason, count in dropped.items():
        console.print(f"[dim]left out {count} frames: {escape(reason)}[/dim]", soft_wrap=True)
    if not outcome.converted:
        console.print("nothing was made: every recording was refused", style="bold red")
        return
    episodes = sum(bag.episodes for bag in outcome.converted)
    again = " (done before, reused)" if outcome.reused else ""
    console.print(
        f"{escape(str(out))}: {episodes} episodes, {outcome.frames} frames, "
        f"{outcome.images} images in {outcome.seconds:.1f} s, peak memory "
        f"{outcome.peak_rss_bytes / 1e6:.0f} MB{again}",
        style="bold green",
        soft_wrap=True,
    )
