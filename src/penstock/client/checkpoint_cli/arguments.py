"""What the commands for checkpoints have in common: arguments, and how a store is opened."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.checkpoints import LATEST
from penstock.client.checkpoint import CheckpointClient, open_checkpoints
from penstock.errors import NotFound
from penstock.targets import Target

__all__ = [
    "as_json",
    "check_output",
    "force",
    "open_store",
    "output",
    "run",
    "source",
    "step",
    "target",
    "which_of",
]

target = click.argument("target")
run = click.argument("run")
step = click.option(
    "--step", default=LATEST, show_default=True, help="A step, a tag, or latest.", metavar="WHICH"
)
source = click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
output = click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
force = click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def open_store(target: str, *, create: bool = False) -> CheckpointClient:
    """The store; one that is not there yet is made for a command that saves, and for no other.

    Raises:
        NotFound: There is no such directory.
        InvalidInput, Unsupported: As ``open_checkpoints``.
    """
    parsed = Target.parse(target)
    if parsed.scheme == "file" and not create:
        for location in parsed.locations:
            if not Path(location).is_dir():
                raise NotFound(f"there is no checkpoint store {location}: name its directory")
    return open_checkpoints(parsed, retry_s=5.0)


def which_of(step: str) -> int | str:
    """A step as a number; a tag or ``latest`` as it is."""
    return int(step) if step.isdecimal() else step


def check_output(output: Path, *, force: bool) -> None:
    """Check where a file is to be written before anything is read.

    Raises:
        ClickException: It exists and may not be replaced, or there is no such folder.
    """
    if output.exists() and not force:
        raise click.ClickException(f"{output} exists: give another name, or --force")
    if not output.parent.is_dir():
        raise click.ClickException(f"{output}: there is no folder {output.parent}: make it first")
