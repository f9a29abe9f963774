"""``penstock rollouts advise``: which encoding is fastest to a target."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import click
from rich.filesize import decimal

from penstock.client.checkpoint_cli.tables import print_table
from penstock.rollouts.advising import advise as advise_for
from penstock.rollouts.cli import arguments
from penstock.rollouts.cli.files import load_leaves
from penstock.targets import Target

__all__ = ["advise"]


@click.command()
@arguments.target
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@arguments.threads
@click.option(
    "--bandwidth",
    type=click.FloatRange(min=0, min_open=True),
    help="Bytes per second of the way to TARGET, where it is known; else it is measured.",
)
@arguments.as_json
def advise(
    target: str, file: Path, threads: int, bandwidth: float | None, *, as_json: bool
) -> None:
    """Say how to encode rollouts such as FILE (.rollout or .npz) to TARGET.

    Measures the way by a few pushes to the stream penstock-probe, deleted again, and what encoding
    takes on this machine.

    \b
    Examples:
      penstock rollouts advise grpc://trainer:50053 last.npz
      penstock rollouts advise grpc://trainer:50053 last.rollout --threads 4 --json
      penstock rollouts advise grpc://trainer:50053 last.npz --bandwidth 1.25e9
    """
    leaves = load_leaves(file)
    to = Target.parse(target)
    # A directory is not opened for what is known of it without.
    with nullcontext(to) if to.scheme == "file" else arguments.open_store(target) as where:
        advice = advise_for(leaves, where, threads=threads, bandwidth_bytes_per_s=bandwidth)
    if as_json:
        click.echo(json.dumps(asdict(advice), indent=2))
        return
    click.echo(advice.reason)
    if advice.bandwidth_bytes_per_s is not None:
        click.echo(f"bandwidth: {decimal(round(advice.bandwidth_bytes_per_s))}/s")
    if advice.predicted_s:
        rows = [(name, f"{1000 * taken:.1f} ms") for name, taken in advice.predicted_s.items()]
        print_table(("plan", "predicted"), rows)
