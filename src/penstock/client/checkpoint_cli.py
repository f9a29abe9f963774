"""Commands for checkpoints: ``penstock checkpoints list|show|get|export|convert|...``."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from penstock.backends import load_backend
from penstock.checkpoints import LATEST, CheckpointInfo
from penstock.client.checkpoint import CheckpointClient, open_checkpoints
from penstock.client.checkpoint_export import write_safetensors, write_torch
from penstock.client.checkpoint_files import load_file
from penstock.container import Reader, write_file
from penstock.disk import full_disk_named
from penstock.errors import Corrupt, NotFound, Unsupported
from penstock.targets import Target

__all__ = ["checkpoints"]

_COPY_BYTES = 1 << 20

_target = click.argument("target")
_run = click.argument("run")
_step = click.option(
    "--step", default=LATEST, show_default=True, help="A step, a tag, or latest.", metavar="WHICH"
)
_output = click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
_force = click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")


@click.group()
def checkpoints() -> None:
    """List, fetch, check and convert checkpoints.

    TARGET is a checkpointer (grpc://localhost:50053) or its directory (file:///checkpoints).

    \b
    Examples:
      penstock checkpoints list grpc://localhost:50053
      penstock checkpoints get grpc://localhost:50053 my-run best.pstk --step best
      penstock checkpoints convert old.pt new.pstk
    """


@checkpoints.command("list")
@_target
@click.argument("run", required=False)
def list_(target: str, run: str | None) -> None:
    """List the runs at TARGET, or the checkpoints of one RUN.

    \b
    Examples:
      penstock checkpoints list grpc://localhost:50053
      penstock checkpoints list file:///checkpoints my-run
    """
    with _open(target) as client:
        if run is None:
            table = Table("run", "checkpoints", "latest step", "size")
            for found in client.runs():
                counts = (str(found.checkpoints), str(found.latest_step))
                table.add_row(found.name, *counts, decimal(found.stored_bytes))
        else:
            table = Table("step", "tags", "size", "saved", "metrics")
            for info in client.list(run):
                metrics = ", ".join(f"{key} {value:g}" for key, value in info.metrics.items())
                size, saved = decimal(info.size_bytes), _time(info)
                table.add_row(str(info.step), ", ".join(info.tags), size, saved, metrics)
    Console().print(table)


@checkpoints.command()
@_target
@_run
@_step
def show(target: str, run: str, step: str) -> None:
    """Show one checkpoint and the tensors in it.

    \b
    Example:
      penstock checkpoints show grpc://localhost:50053 my-run --step best
    """
    with _open(target) as client:
        info = client.get(run, _which(step))
        with client.open(run, info.step) as file, Reader(file) as reader:
            index = reader.index
    click.echo(f"{info.run}/{info.step}  tags: {', '.join(info.tags) or 'none'}  {_time(info)}")
    click.echo(f"{info.digest}, {info.raw_size_bytes} bytes of tensors, {index.chunk_count} chunks")
    for key, value in {**index.meta, **info.metrics}.items():
        click.echo(f"{key}: {value}")
    table = Table("tensor", "dtype", "shape")
    for path, entry in index.named_entries():
        table.add_row(path, entry.dtype, str(entry.shape))
    Console().print(table)


@checkpoints.command()
@_target
@_run
@_output
@_step
@_force
def get(target: str, run: str, output: Path, step: str, *, force: bool) -> None:
    """Fetch a checkpoint as it is stored into OUTPUT (.pstk).

    \b
    Example:
      penstock checkpoints get grpc://localhost:50053 my-run best.pstk --step best
    """
    _check_output(output, force=force)
    part = output.with_name(f".{output.name}.part")
    try:
        with (
            _open(target) as client,
            client.open(run, _which(step)) as file,
            full_disk_named(f"writing {output}"),
            part.open("wb") as to,
        ):
            shutil.copyfileobj(file, to, _COPY_BYTES)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    click.echo(f"{output}: {output.stat().st_size} bytes")


@checkpoints.command()
@_target
@_run
@_output
@_step
@_force
def export(target: str, run: str, output: Path, step: str, *, force: bool) -> None:
    """Fetch a checkpoint into OUTPUT for other tools: .pt or .safetensors.

    safetensors keeps tensors only; what is left out is said.

    \b
    Examples:
      penstock checkpoints export grpc://localhost:50053 my-run best.pt --step best
      penstock checkpoints export file:///checkpoints my-run policy.safetensors
    """
    _check_output(output, force=force)
    with _open(target) as client:
        state = client.load(run, _which(step))
    _write(state, output)


@checkpoints.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_output
@_force
def convert(source: Path, output: Path, *, force: bool) -> None:
    """Convert a checkpoint file, told apart by its content, into what OUTPUT's name says.

    Reads .pstk, .pt (tensors and plain values), LZ4 frames of them, and safetensors; writes .pstk,
    .pt and .safetensors.

    \b
    Examples:
      penstock checkpoints convert model.pt model.pstk
      penstock checkpoints convert model.pt.lz4 model.safetensors
    """
    _check_output(output, force=force)
    _write(load_file(source), output)


@checkpoints.command("save")
@_target
@_run
@click.argument("step", type=int)
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--tag", "tags", multiple=True, help="Name that will point at it; repeatable.")
def save(target: str, run: str, step: int, source: Path, tags: tuple[str, ...]) -> None:
    """Save a checkpoint file (any kind that convert reads) as STEP of RUN.

    \b
    Example:
      penstock checkpoints save grpc://localhost:50053 my-run 1000 model.pt --tag best
    """
    with _open(target, create=True) as client:
        info = client.save(load_file(source), run, step, tags=tags)
    click.echo(f"{info.run}/{info.step}: {info.digest}")


@checkpoints.command()
@_target
@_run
@click.argument("steps", type=int, nargs=-1, required=True)
def delete(target: str, run: str, steps: tuple[int, ...]) -> None:
    """Delete STEPS of a RUN, with the tags on them.

    \b
    Example:
      penstock checkpoints delete grpc://localhost:50053 my-run 1000 2000
    """
    with _open(target) as client:
        for step in steps:
            client.delete(run, step)
            click.echo(f"{run}/{step} deleted")


@checkpoints.command()
@_target
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
    with _open(target) as client:
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


def _open(target: str, *, create: bool = False) -> CheckpointClient:
    """The store; one that is not there yet is made for a command that saves, and for no other."""
    parsed = Target.parse(target)
    if parsed.scheme == "file" and not create:
        for location in parsed.locations:
            if not Path(location).is_dir():
                raise NotFound(f"there is no checkpoint store {location}: name its directory")
    return open_checkpoints(parsed, retry_s=5.0)


def _which(step: str) -> int | str:
    return int(step) if step.isdecimal() else step


def _time(info: CheckpointInfo) -> str:
    saved = datetime.fromtimestamp(info.created_unix_ms / 1000, UTC)
    return saved.strftime("%Y-%m-%d %H:%M:%S UTC")


def _check_output(output: Path, *, force: bool) -> None:
    if output.exists() and not force:
        raise click.ClickException(f"{output} exists: give another name, or --force")
    if not output.parent.is_dir():
        raise click.ClickException(f"{output}: there is no folder {output.parent}: make it first")


def _write(state: Any, output: Path) -> None:
    if output.suffix == ".pstk":
        write_file(state, output)
    elif output.suffix in (".pt", ".pth"):
        write_torch(state, output)
    elif output.suffix == ".safetensors":
        left_out = write_safetensors(state, output)
        if left_out:
            shown = ", ".join(left_out[:5])
            click.echo(f"{len(left_out)} values are no tensors and were left out: {shown} ...")
    else:
        raise Unsupported(f"{output}: write .pstk, .pt or .safetensors")
    click.echo(f"{output}: {output.stat().st_size} bytes")
