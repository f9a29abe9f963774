"""Commands that show what a store holds: ``penstock rollouts streams|list|show``."""

from __future__ import annotations

import json

import click
from rich.filesize import decimal

from penstock.client.checkpoint_cli.tables import print_table, time_of
from penstock.rollouts.cli import arguments
from penstock.rollouts.cli.documents import index_document, info_document, stream_document
from penstock.rollouts.fields import fields_of
from penstock.streams import RolloutInfo, Selection, StreamState

__all__ = ["list_", "show", "streams"]


@click.command()
@arguments.target
@arguments.as_json
def streams(target: str, *, as_json: bool) -> None:
    """Show the streams at TARGET: settings, what is stored, who produces and who consumes.

    \b
    Examples:
      penstock rollouts streams grpc://localhost:50053
      penstock rollouts streams file:///rollouts --json
    """
    with arguments.open_store(target) as client:
        states = client.streams()
    if as_json:
        click.echo(json.dumps([stream_document(state) for state in states], indent=2))
        return
    print_table(
        *(
            ("stream", "rollouts", "size", "last", "capacity", "dropped", "refused"),
            [_stream_row(state) for state in states],
        )
    )
    consumers = [
        (
            *(state.name, found.name, *_numbers(found.waiting, found.taken, found.settled)),
            *_numbers(found.skipped_stale, found.dropped),
        )
        for state in states
        for found in state.consumers
    ]
    if consumers:
        columns = ("stream", "consumer", "waiting", "taken", "settled", "skipped stale", "dropped")
        print_table(columns, consumers)
    producers = [
        (state.name, found.name, *_numbers(found.last_iteration, found.pushed))
        for state in states
        for found in state.producers
    ]
    if producers:
        print_table(("stream", "producer", "last iteration", "pushed"), producers)


@click.command("list")
@arguments.target
@arguments.stream
@click.option(
    "--after", type=click.IntRange(min=0), default=0, help="Only those above this sequence."
)
@arguments.as_json
def list_(target: str, stream: str, after: int, *, as_json: bool) -> None:
    """List the rollouts of a STREAM.

    \b
    Examples:
      penstock rollouts list grpc://localhost:50053 nav
      penstock rollouts list grpc://localhost:50053 nav --after 120 --json
    """
    with arguments.open_store(target) as client:
        infos = list(client.list(stream, after))
    if as_json:
        click.echo(json.dumps([info_document(info) for info in infos], indent=2))
        return
    columns = ("sequence", "producer", "iteration", "policy", "envs x steps", "size", "ratio")
    print_table((*columns, "stored"), [_row(info) for info in infos])


@click.command()
@arguments.target
@arguments.stream
@arguments.which
@arguments.as_json
def show(target: str, stream: str, which: str, *, as_json: bool) -> None:
    """Show one rollout: its fields, how they are stored, and what that saves.

    WHICH is a sequence, PRODUCER/ITERATION, or latest (the default).

    \b
    Examples:
      penstock rollouts show grpc://localhost:50053 nav
      penstock rollouts show grpc://localhost:50053 nav main/120
      penstock rollouts show file:///rollouts nav 12 --json
    """
    with arguments.open_store(target) as client:
        # Every pull brings the index; this is the least that can be pulled.
        pulled = client.pull(
            stream, arguments.which_of(which), selection=Selection(envs=(0,), steps=1)
        )
    info, index = pulled.info, pulled.index
    fields = fields_of(index)
    if as_json:
        document = {**info_document(info), **index_document(index, fields)}
        click.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    click.echo(
        f"{info}  sequence {info.sequence}  policy version {info.policy_version}  "
        f"{time_of(info.created_unix_ms)}"
    )
    click.echo(f"{info.digest}, {info.envs} envs x {info.steps} steps")
    for key, value in index.meta.items():
        click.echo(f"{key}: {value}")
    rows = [
        (
            *(found.field.name, found.field.dtype, str(found.field.shape), found.field.codec),
            _how(found.field.next_of, found.field.stored, found.field.dtype),
            *(str(found.raw_bytes), str(found.stored_bytes), _ratio(found.ratio)),
        )
        for found in fields
    ]
    total = ("all", "", "", "", "", str(index.raw_size_bytes), str(index.file_size_bytes))
    rows.append((*total, _ratio(index.raw_size_bytes / index.file_size_bytes)))
    columns = ("field", "dtype", "shape", "codec", "how", "raw bytes", "stored bytes", "ratio")
    print_table(columns, rows)


def _how(next_of: str | None, stored: str, dtype: str) -> str:
    parts = [f"from {next_of}"] if next_of is not None else []
    if stored != dtype:
        parts.append(f"as {stored}, loses precision")
    return ", ".join(parts)


def _row(info: RolloutInfo) -> tuple[str, ...]:
    return (
        str(info.sequence),
        info.producer,
        *_numbers(info.iteration, info.policy_version),
        f"{info.envs} x {info.steps}",
        decimal(info.digest.size_bytes),
        _ratio(info.raw_size_bytes / max(1, info.digest.size_bytes)),
        time_of(info.created_unix_ms),
    )


def _stream_row(state: StreamState) -> tuple[str, ...]:
    settings = state.settings
    capacity = f"{settings.capacity}, {settings.when_full}" if settings.capacity else "any"
    return (
        state.name,
        str(state.rollouts),
        decimal(state.stored_bytes),
        str(state.last_sequence),
        capacity,
        *_numbers(state.dropped, state.refused),
    )


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _numbers(*numbers: int) -> tuple[str, ...]:
    return tuple(map(str, numbers))
