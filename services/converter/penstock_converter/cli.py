"""Commands of the converter: ``penstock convert`` and ``penstock serve converter``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.config import settings_options
from penstock_converter.serving.settings import ConverterSettings

if TYPE_CHECKING:
    from rich.console import Console

    from penstock_converter.jobs.outcome import Outcome
    from penstock_converter.recordings.inspection import Inspection

__all__ = ["convert", "serve"]

PARTLY = 3
"""Exit status when some recordings were refused and the others converted."""


class _RunByDefault(click.Group):
    """``penstock convert BAG...`` is ``penstock convert run BAG...``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "run", self.commands["run"], args


@click.group(
    "convert",
    cls=_RunByDefault,
    context_settings={"ignore_unknown_options": True},
    subcommand_metavar="BAG... [KEY=VALUE]... | COMMAND [ARGS]...",
)
def convert() -> None:
    """Turn recordings into datasets, and look at recordings.

    `penstock convert BAG...` is short for `penstock convert run BAG...`; the options are in
    `penstock convert run --help`.

    \b
    Examples:
      penstock convert inspect session.bag
      penstock convert inspect session.bag --mapping-out robot.yaml
      penstock convert session.bag --mapping robot.yaml --out dataset
    """


@convert.command("run")
@click.argument("inputs", nargs=-1, required=True, metavar="BAG... [KEY=VALUE]...")
@click.option(
    "--mapping",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="YAML file: which topic becomes which feature.",
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
def run(
    inputs: tuple[str, ...], mapping: Path, out: Path, hdf5: Path | None, *, overwrite: bool
) -> None:
    """Turn recordings into one dataset: LeRobot v3.0, HDF5 for the sampler, or both.

    BAG is a ROS 1 .bag, a ROS 2 .mcap or .db3 file or the folder of a recording, or a folder of
    such; each becomes an episode. KEY=VALUE changes the mapping. A recording that cannot be
    converted is reported and the others go on. Doing it again reuses what is there.

    The exit status is 0 when all recordings were converted, 3 when some were refused, 1 when
    nothing was made.

    \b
    Examples:
      penstock convert session.bag --mapping robot.yaml --out dataset
      penstock convert bags/ --mapping robot.yaml --out dataset --hdf5 files
      penstock convert bags/*.mcap --mapping robot.yaml --out dataset rosbag.chunk_size=200 fps=15
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from penstock_converter.jobs.job import run_job
    from penstock_converter.jobs.outcome import Progress as State
    from penstock_converter.jobs.request import HDF5_FOLDER, Job
    from penstock_converter.mapping.parsing import load_mapping
    from penstock_converter.quiet import hush_logs
    from penstock_converter.recordings.discovery import find_bags

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
    job = Job(tuple(bags), load_mapping(mapping, overrides), out, hdf5, overwrite)
    console = Console(stderr=True)
    columns = (
        TextColumn("converting"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with _cancelled_by_sigterm() as cancelled, Progress(*columns, console=console) as bars:
        bar = bars.add_task("", total=1.0, note=f"{len(bags)} recordings")

        def show(state: State) -> None:
            ended = sum(bag.state in ("converted", "refused") for bag in state.bags)
            left = f", {state.eta_s:.0f} s left" if state.eta_s > 0 else ""
            note = (
                f"{ended}/{len(bags)} recordings, {state.frames_done} frames, "
                f"{state.images_per_s:.0f} images/s{left}"
            )
            bars.update(bar, completed=state.fraction, note=note)

        outcome = run_job(job, show, cancelled.is_set)
        if outcome.reused:
            bars.update(bar, completed=1.0, note="done before")
    _tell(console, outcome, out)
    if not outcome.converted:
        raise SystemExit(1)
    if outcome.refused:
        raise SystemExit(PARTLY)


@convert.command("inspect")
@click.argument("bags", nargs=-1, required=True, metavar="BAG...")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON, a line each.")
@click.option(
    "--mapping-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a mapping to begin with, by the first recording; the file must not exist.",
)
def inspect(bags: tuple[str, ...], mapping_out: Path | None, *, as_json: bool) -> None:
    """List topics, types, rates and gaps of recordings.

    A gap is a pause of more than three of a topic's usual periods. A recording that cannot be read
    is reported and the others go on; the exit status is then 3, or 1 if none could be read.

    \b
    Examples:
      penstock convert inspect session.bag
      penstock convert inspect bags/ --json
      penstock convert inspect session.bag --mapping-out robot.yaml
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape

    from penstock.errors import AlreadyExists, PenstockError
    from penstock_converter.quiet import hush_logs
    from penstock_converter.recordings.discovery import find_bags
    from penstock_converter.recordings.inspection import inspect_bag
    from penstock_converter.recordings.proposal import propose_mapping

    hush_logs()
    console, notes = Console(), Console(stderr=True, highlight=False)
    if mapping_out is not None and mapping_out.exists():
        raise AlreadyExists(f"{mapping_out} exists: name another file, or remove it first")
    found: list[Inspection] = []
    refused = 0
    for bag in find_bags(bags):
        try:
            found.append(inspect_bag(bag))
        except PenstockError as error:
            refused += 1
            notes.print(f"[red]refused[/red] {escape(error.message)}", soft_wrap=True)
            continue
        if as_json:
            print(json.dumps(asdict(found[-1])))
        else:
            _show(console, found[-1])
    if not found:
        raise SystemExit(1)
    if mapping_out is not None:
        mapping_out.write_text(propose_mapping(found[0]), "utf-8")
        notes.print(f"wrote {escape(str(mapping_out))}: check it before use", soft_wrap=True)
    if refused:
        raise SystemExit(PARTLY)


@click.command("converter")
@settings_options(ConverterSettings)
def serve(settings: ConverterSettings) -> None:
    """Convert recordings for clients on other machines.

    Clients name recordings and datasets relative to two folders of this machine. Each conversion
    is a process of its own.

    \b
    Examples:
      penstock serve converter --input-root /recordings --output-root /data --host 0.0.0.0
      PENSTOCK_INPUT_ROOT=bags PENSTOCK_OUTPUT_ROOT=datasets penstock serve converter
    """
    from penstock.server import serve as serve_until_signal
    from penstock_converter.service import ConverterService
    from penstock_converter.serving.conversions import Conversions

    conversions = Conversions(settings)
    try:
        serve_until_signal(
            "converter",
            settings,
            ConverterService(conversions).register,
            on_drain=conversions.close,
        )
    finally:
        conversions.close()


@contextmanager
def _cancelled_by_sigterm() -> Generator[threading.Event]:
    """Let SIGTERM end the conversion as Ctrl-C does: with nothing half done left behind."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(console: Console, found: Inspection) -> None:
    from rich.markup import escape
    from rich.table import Table

    title = f"{found.bag}: {found.duration_s:.1f} s, {found.size_bytes / 1e6:.1f} MB"
    table = Table(title=escape(title), show_lines=True)
    table.add_column("topic, type, what a message holds", overflow="fold")
    for column in ("messages", "Hz", "seconds", "gaps (longest)"):
        table.add_column(column, justify="right")
    for topic in found.topics:
        numbers = ", ".join(f"{field.path} ({field.width})" for field in topic.numbers)
        problem = f"[red]{escape(topic.problem)}[/red]"
        parts = [
            f"[bold]{escape(topic.name)}[/bold]",
            f"[dim]{escape(topic.kind)}[/dim]" if topic.kind else "",
            problem if topic.problem else escape(topic.image or numbers),
        ]
        table.add_row(
            "\n".join(part for part in parts if part),
            str(topic.messages),
            f"{topic.rate_hz:.1f}",
            f"{topic.first_s:.2f} to {topic.last_s:.2f}",
            f"{topic.gaps} ({topic.longest_gap_s:.2f} s)" if topic.gaps else "none",
        )
    console.print(table)


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
    again = " (done before, reused)" if outcome.reused else ""
    console.print(
        f"{escape(str(out))}: {len(outcome.converted)} episodes, {outcome.frames} frames, "
        f"{outcome.images} images in {outcome.seconds:.1f} s, peak memory "
        f"{outcome.peak_rss_bytes / 1e6:.0f} MB{again}",
        style="bold green",
        soft_wrap=True,
    )
