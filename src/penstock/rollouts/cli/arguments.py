"""What the commands for rollouts have in common: arguments, and how a store is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from penstock.client.rollout import RolloutClient, open_rollouts
from penstock.errors import InvalidInput, NotFound
from penstock.rollout_file import Encoding
from penstock.streams import DEFAULT_PRODUCER, Which
from penstock.targets import Target

__all__ = [
    "as_json",
    "encoding_option",
    "encoding_options",
    "open_store",
    "producer",
    "stream",
    "target",
    "threads",
    "which",
    "which_of",
]

target = click.argument("target")
stream = click.argument("stream")
which = click.argument("which", default="latest")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
producer = click.option(
    "--producer", default=DEFAULT_PRODUCER, show_default=True, help="Who collected them."
)
threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many encode or decode.",
)


def encoding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--codec`` and ``--level``."""
    command = click.option(
        "--level",
        type=int,
        help="Level of zstd, or acceleration of lz4; default: as measured best.",
    )(command)
    return click.option(
        "--codec",
        type=click.Choice(["lz4", "zstd", "raw"]),
        default="lz4",
        show_default=True,
        help="How to encode.",
    )(command)


def encoding_option(codec: str, level: int | None) -> Encoding:
    """The encoding that the options say.

    Raises:
        InvalidInput: The codec has no such level.
    """
    return Encoding(codec=codec, level=level)  # pyright: ignore[reportArgumentType] - a choice


def open_store(target: str, *, create: bool = False) -> RolloutClient:
    """The store; one that is not there yet is made for a command that writes, and for no other.

    Raises:
        NotFound: There is no such directory.
        InvalidInput, Unsupported: As ``open_rollouts``.
    """
    parsed = Target.parse(target)
    if parsed.scheme == "file" and not create:
        for location in parsed.locations:
            if not Path(location).is_dir():
                raise NotFound(f"there is no store of rollouts {location}: name its directory")
    return open_rollouts(parsed, retry_s=5.0)


def which_of(text: str) -> Which:
    """``latest``, a sequence, or ``PRODUCER/ITERATION``.

    Raises:
        InvalidInput: It reads otherwise.
    """
    if text == "latest":
        return Which(latest=True)
    name, slash, number = text.rpartition("/")
    if not number.isdecimal() or (slash and not name):
        raise InvalidInput(
            f"{text!r}: write latest, a sequence such as 12, or main/120 for iteration 120 of the "
            "producer main",
            field="which",
        )
    return Which(iteration=(name, int(number))) if slash else Which(sequence=int(number))
