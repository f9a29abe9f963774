"""Commands that write checkpoint files: ``penstock checkpoints get|export|convert``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from penstock.checkpoints import CheckpointInfo
from penstock.client.checkpoint import CheckpointClient
from penstock.client.checkpoint_cli import arguments
from penstock.client.checkpoint_files.export import (
    is_torch_name,
    write_safetensors,
    write_torch,
    write_whole,
)
from penstock.client.checkpoint_files.load import load_file
from penstock.client.checkpoint_files.trust import load_trusted
from penstock.container import write_file
from penstock.errors import Unsupported

__all__ = ["convert", "export", "get"]

_COPY_BYTES = 1 << 20


@click.command()
@arguments.target
@arguments.run
@arguments.output
@arguments.step
@arguments.force
def get(target: str, run: str, output: Path, step: str, *, force: bool) -> None:
    """Fetch a checkpoint as it is stored into OUTPUT (.pstk).

    One that refers to another checkpoint of its run is written whole in itself.

    \b
    Example:
      penstock checkpoints get grpc://localhost:50053 my-run best.pstk --step best
    """
    arguments.check_output(output, force=force)
    with arguments.open_store(target) as client:
        info = client.get(run, arguments.which_of(step))
        if info.base_step is None:
            write_whole(output, lambda part: _copy(client, info, part))
        else:
            _write_self_contained(client, info, output)
    click.echo(f"{output}: {output.stat().st_size} bytes")


@click.command()
@arguments.target
@arguments.run
@arguments.output
@arguments.step
@arguments.force
def export(target: str, run: str, output: Path, step: str, *, force: bool) -> None:
    """Fetch a checkpoint into OUTPUT for other tools: .pt, .pt.lz4 or .safetensors.

    safetensors keeps tensors only; what is left out is said.

    \b
    Examples:
      penstock checkpoints export grpc://localhost:50053 my-run best.pt --step best
      penstock checkpoints export grpc://localhost:50053 my-run latest.pt.lz4
      penstock checkpoints export file:///checkpoints my-run policy.safetensors
    """
    arguments.check_output(output, force=force)
    _check_writable(output)
    with arguments.open_store(target) as client:
        state = client.load(run, arguments.which_of(step))
    _write(state, output)


@click.command()
@arguments.source
@arguments.output
@arguments.force
@click.option(
    "--trust",
    is_flag=True,
    help="Read pickles of any objects too. This runs code that SOURCE names: only for files whose "
    "origin you know.",
)
def convert(source: Path, output: Path, *, force: bool, trust: bool) -> None:
    """Convert a checkpoint file, told apart by its content, into what OUTPUT's name says.

    Reads .pstk, .pt (tensors and plain values), LZ4 frames of them, and safetensors; with --trust
    also pickles, and .pt files that hold other objects, as far as what is in them can be kept.
    Writes .pstk, .pt, .pt.lz4 and .safetensors.

    \b
    Examples:
      penstock checkpoints convert model.pt model.pstk
      penstock checkpoints convert model.pt.lz4 model.safetensors
      penstock checkpoints convert model.pstk model.pt.lz4
      penstock checkpoints convert --trust old.pkl old.pstk
    """
    arguments.check_output(output, force=force)
    _check_writable(output)
    if trust:
        click.secho(
            f"warning: {source} is read as a pickle if it is one, which runs whatever code it "
            "names: go on only with files that you trust",
            fg="yellow",
            err=True,
        )
        state = load_trusted(source)
    else:
        state = load_file(source)
    _write(state, output)


def _copy(client: CheckpointClient, info: CheckpointInfo, part: Path) -> None:
    with client.open(info.run, info.step) as file, part.open("wb") as to:
        shutil.copyfileobj(file, to, _COPY_BYTES)


def _write_self_contained(client: CheckpointClient, info: CheckpointInfo, output: Path) -> None:
    with client.open_reader(info.run, info.step) as reader:
        meta, state = reader.meta, reader.load()
    write_file(state, output, meta=meta)
    click.echo(
        f"{info.run}/{info.step} is stored as what differs from {info.run}/{info.base_step}: "
        f"{output} holds it whole, so its digest is another one"
    )


def _check_writable(output: Path) -> None:
    """Before anything is read: an hour's download that cannot be written helps nobody."""
    if output.suffix not in (".pstk", ".safetensors") and not is_torch_name(output):
        raise Unsupported(f"{output}: write .pstk, .pt, .pt.lz4 or .safetensors")


def _write(state: Any, output: Path) -> None:
    if output.suffix == ".pstk":
        write_file(state, output)
    elif is_torch_name(output):
        write_torch(state, output)
    else:
        left_out = write_safetensors(state, output)
        if left_out:
            shown = ", ".join(left_out[:5])
            click.echo(f"{len(left_out)} values are no tensors and were left out: {shown} ...")
    click.echo(f"{output}: {output.stat().st_size} bytes")
