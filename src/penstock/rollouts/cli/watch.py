"""``penstock rollouts watch``: rollouts as they become durable."""

from __future__ import annotations

import json

import click
from rich.filesize import decimal

from penstock.client.checkpoint_cli.tables import time_of
from penstock.rollouts.cli import arguments
from penstock.rollouts.cli.documents import info_document

__all__ = ["watch"]


@click.command()
@arguments.target
@arguments.stream
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Begin above this sequence.",
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def watch(target: str, stream: str, after: int, count: int | None, *, as_json: bool) -> None:
    """Print every rollout of a STREAM, and new ones as they are stored, until interrupted.

    \b
    Examples:
      penstock rollouts watch grpc://localhost:50053 nav
      penstock rollouts watch grpc://localhost:50053 nav --after 120 --json
    """
    with arguments.open_store(target) as client:
        for seen, info in enumerate(client.subscribe(stream, after), 1):
            if as_json:
                click.echo(json.dumps(info_document(info)))
            else:
                click.echo(
                    f"{time_of(info.created_unix_ms)}  {info.sequence}  {info.producer}/"
                    f"{info.iteration}  policy {info.policy_version}  {info.envs} x {info.steps}  "
                    f"{decimal(info.digest.size_bytes)}"
                )
            if seen == count:
                return
