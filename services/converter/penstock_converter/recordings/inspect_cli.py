"""``penstock convert inspect``: what recordings hold, and a mapping to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock_converter.exit_status import PARTLY

if TYPE_CHECKING:
    from rich.console import Console

    from penstock_converter.recordings.inspection import Inspection

__all__ = ["inspect"]


@click.command("inspect")
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
    from penstock_converter.mapping.parsing import fitting_presets
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
        presets = fitting_presets(found[-1].usable_topics)
        if as_json:
            print(json.dumps({**asdict(found[-1]), "presets": presets}))
        else:
            _show(console, found[-1])
            for preset in presets:
                console.print(f"fits preset [bold]{preset}[/bold]: --mapping {preset}")
    if not found:
        raise SystemExit(1)
    if mapping_out is not None:
        mapping_out.write_text(propose_mapping(found[0]), "utf-8")
        notes.print(f"wrote {escape(str(mapping_out))}: check it before use", soft_wrap=True)
    if refused:
        raise SystemExit(PARTLY)


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
