"""Commands for checkpoints: ``penstock checkpoints list|show|get|export|convert|...``."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.backends import load_backend
from penstock.client.checkpoint_cli import arguments
from penstock.client.checkpoint_cli.diff import diff
from penstock.client.checkpoint_cli.files import convert, export, get
from penstock.client.checkpoint_cli.retention import gc, pin, unpin
from penstock.client.checkpoint_cli.show import list_, show
from penstock.client.checkpoint_files.load import load_file
from penstock.errors import Corrupt
from penstock.targets import Target

__all__ = ["checkpoints"]


@click.group()
def checkpoints() -> None:
    """List, fetch, compare, check, convert and remove checkpoints.

    TARGET is a checkpointer (grpc://localhost:50053) or its directory (file:///checkpoints).

    \b
    Examples:
      penstock checkpoints list grpc://localhost:50053
      penstock checkpoints get grpc://localhost:50053 my-run best.pstk --step best
      penstock checkpoints diff grpc://localhost:50053 my-run 1000 2000
      penstock checkpoints convert old.pt new.pstk
    """


for _command in (list_, show, get, export, convert, diff, pin, unpin, gc):
    checkpoints.add_command(_command)


@checkpoints.command()
@arguments.target
@arguments.run
@click.argument("step", type=int)
@arguments.source
@click.option("--tag", "tags", multiple=True, help="Name that will point at it; repeatable.")
def save(target: str, run: str, step: int, source: Path, tags: tuple[str, ...]) -> None:
    """Save a checkpoint file (any kind that convert reads) as STEP of RUN.

    \b
    Example:
      penstock checkpoints save grpc://localhost:50053 my-run 1000 model.pt --tag best
    """
    with arguments.open_store(target, create=True) as client:
        info = client.save(load_file(source), run, step, tags=tags)
    click.echo(f"{info.run}/{info.step}: {info.digest}")


@checkpoints.command()
@arguments.target
@arguments.run
@click.argument("steps", type=int, nargs=-1, required=True)
def delete(target: str, run: str, steps: tuple[int, ...]) -> None:
    """Delete STEPS of a RUN, with the tags on them.

    \b
    Example:
      penstock checkpoints delete grpc://localhost:50053 my-run 1000 2000
    """
    with arguments.open_store(target) as client:
        for step in steps:
            client.delete(run, step)
            click.echo(f"{run}/{step} deleted")


@checkpoints.command()
@arguments.target
@click.argument("run", required=False)
def verify(target: str, run: str | None) -> None:
    """Check every byte of the checkpoints of RUN, or of all runs, where they are stored.

    The exit status is 1 when one is damaged.

    \b
    Examples:
      penstock checkpoints verify grpc://localhost:50053
      penstock checkpoints verify file:///checkpoints my-run
    """
    damaged = 0
    with arguments.open_store(target) as client:
        names = [run] if run is not None else [found.name for found in client.runs()]
        for name in names:
            for info in client.list(name):
                try:
                    _, chunks = client.verify(name, info.step)
                    click.echo(f"{name}/{info.step} intact, {chunks} chunks")
                except Corrupt as error:
                    damaged += 1
                    click.secho(f"{name}/{info.step} DAMAGED: {error.message}", fg="red")
    if damaged:
        raise SystemExit(1)


@checkpoints.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
def rebuild(directory: Path) -> None:
    """Make the catalogue of the store in DIRECTORY anew from its files.

    \b
    Example:
      penstock checkpoints rebuild /checkpoints
    """
    backend = load_backend("checkpointer", Target.parse(f"file://{directory.absolute()}"))
    try:
        click.echo(f"{backend.rebuild()} checkpoints")
    finally:
        backend.close()
