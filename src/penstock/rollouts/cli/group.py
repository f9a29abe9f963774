"""Commands for rollouts: ``penstock rollouts streams|list|show|pull|push|...``."""

from __future__ import annotations

import click

from penstock.rollouts.cli.advice import advise
from penstock.rollouts.cli.convert import convert
from penstock.rollouts.cli.files import pull, push
from penstock.rollouts.cli.show import list_, show, streams
from penstock.rollouts.cli.streams import configure, delete, forget
from penstock.rollouts.cli.watch import watch

__all__ = ["rollouts"]


@click.group()
def rollouts() -> None:
    """List, show, fetch, push, watch and remove rollouts; convert old files of them.

    TARGET is a checkpointer (grpc://localhost:50053) or its directory (file:///rollouts).

    \b
    Examples:
      penstock rollouts streams grpc://localhost:50053
      penstock rollouts show grpc://localhost:50053 nav latest
      penstock rollouts pull grpc://localhost:50053 nav latest --out last.npz --envs 0-7
      penstock rollouts convert --trust old/*.lz4 --to file:///rollouts
    """


for _command in (
    *(streams, list_, show, pull, push, delete),
    *(configure, forget, advise, convert, watch),
):
    rollouts.add_command(_command)
