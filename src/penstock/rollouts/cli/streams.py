"""Commands that change a stream: ``penstock rollouts configure|delete|forget``."""

from __future__ import annotations

from dataclasses import replace

import click

from penstock.errors import NotFound
from penstock.rollouts.cli import arguments
from penstock.streams import StreamSettings

__all__ = ["configure", "delete", "forget"]

_COUNT = click.IntRange(min=0)


@click.command()
@arguments.target
@arguments.stream
@click.option("--capacity", type=_COUNT, help="Rollouts that may wait to be consumed; 0: any.")
@click.option(
    "--when-full",
    type=click.Choice(["refuse", "drop-oldest"]),
    help="Let the producer wait, or drop the oldest that nobody works on.",
)
@click.option("--keep-last", type=_COUNT, help="Of those that are consumed the newest stay.")
@click.option("--keep-every", type=_COUNT, help="And multiples of this, by iteration.")
def configure(
    target: str,
    stream: str,
    capacity: int | None,
    when_full: str | None,
    keep_last: int | None,
    keep_every: int | None,
) -> None:
    """Set what a STREAM holds, which is made if it is missing; what is not given stays as it is.

    Rollouts wait until every consumer has settled them. With --keep-last and --keep-every both 0
    all of them stay.

    \b
    Examples:
      penstock rollouts configure grpc://localhost:50053 nav --capacity 4
      penstock rollouts configure file:///rollouts nav --capacity 8 --when-full drop-oldest
      penstock rollouts configure file:///rollouts nav --keep-last 2 --keep-every 100
    """
    given = {
        "capacity": capacity,
        "when_full": when_full,
        "keep_last": keep_last,
        "keep_every": keep_every,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    with arguments.open_store(target, create=True) as client:
        try:
            settings = client.stream(stream).settings
        except NotFound:
            settings = StreamSettings()
        settings = client.configure(stream, replace(settings, **changes)).settings
    click.echo(
        f"{stream}: capacity {settings.capacity or 'any'}, when full {settings.when_full}, "
        f"keep last {settings.keep_last or 'all'}, keep every {settings.keep_every or 'none'}"
    )


@click.command()
@arguments.target
@arguments.stream
@click.argument("sequences", type=int, nargs=-1, required=True)
def delete(target: str, stream: str, sequences: tuple[int, ...]) -> None:
    """Delete the rollouts of these SEQUENCES from a STREAM; their iterations may be pushed anew.

    \b
    Example:
      penstock rollouts delete grpc://localhost:50053 nav 12 13
    """
    with arguments.open_store(target) as client:
        for sequence in sequences:
            client.delete(stream, sequence)
            click.echo(f"{stream}/{sequence} deleted")


@click.command()
@arguments.target
@arguments.stream
@click.argument("consumer")
def forget(target: str, stream: str, consumer: str) -> None:
    """Forget a CONSUMER of a STREAM that will not come back, so that nothing waits for it.

    What no other consumer waits for leaves the queue; if it was the last one, what it has not
    settled waits for whoever comes. One that takes again under this name begins anew, at all that
    is stored.

    \b
    Examples:
      penstock rollouts forget grpc://localhost:50053 nav ppo
      penstock rollouts forget file:///rollouts nav evaluation
    """
    with arguments.open_store(target) as client:
        client.forget_consumer(stream, consumer)
    click.echo(f"{stream}: consumer {consumer} forgotten")
