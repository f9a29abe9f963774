"""The command ``penstock checkpoints diff``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from penstock.client.checkpoint_cli import arguments
from penstock.client.checkpoint_cli.tables import finite, print_table
from penstock.client.checkpoint_diff import Difference, TensorChange, diff_checkpoints
from penstock.errors import PenstockError

__all__ = ["diff"]

_DIFFERENT = 1
_TROUBLE = 2


@click.command()
@arguments.target
@arguments.run
@click.argument("step_a")
@click.argument("step_b")
@click.option("--other-run", metavar="RUN", help="Run of STEP_B, if it is another one.")
@arguments.as_json
def diff(
    target: str, run: str, step_a: str, step_b: str, other_run: str | None, *, as_json: bool
) -> None:
    """Show what differs between STEP_A and STEP_B of RUN: each a step, a tag, or latest.

    Tensors are compared bit by bit; what changed is said with the largest absolute difference and
    the norm of the difference relative to that of STEP_A (bfloat16 and float8: equal or not). The
    exit status is 0 if nothing differs, 1 if something does, 2 on trouble.

    \b
    Examples:
      penstock checkpoints diff grpc://localhost:50053 my-run 1000 2000
      penstock checkpoints diff file:///checkpoints my-run best latest --json
      penstock checkpoints diff file:///checkpoints my-run 1000 1000 --other-run resumed
    """
    try:
        with arguments.open_store(target) as client:
            old = client.get(run, arguments.which_of(step_a))
            new = client.get(other_run or run, arguments.which_of(step_b))
            with (
                client.open_reader(old.run, old.step) as old_reader,
                client.open_reader(new.run, new.step) as new_reader,
            ):
                found = diff_checkpoints(old_reader, new_reader)
    except PenstockError as error:
        # The status that means trouble: 1 would say that the checkpoints differ.
        click.secho(f"error: {error.message}", fg="red", err=True)
        raise SystemExit(_TROUBLE) from error
    names = f"{old.run}/{old.step}", f"{new.run}/{new.step}"
    if as_json:
        click.echo(json.dumps(_document(names, found), indent=2, allow_nan=False))
    else:
        _print(names, found)
    if found:
        raise SystemExit(_DIFFERENT)


def _document(names: tuple[str, str], found: Difference) -> dict[str, Any]:
    document = asdict(found)
    for change in document["changed"]:
        change["max_abs"] = finite(change["max_abs"])
        change["relative_norm"] = finite(change["relative_norm"])
    return {"old": names[0], "new": names[1], "differs": bool(found), **document}


def _print(names: tuple[str, str], found: Difference) -> None:
    for name, tensors in zip(names, (found.only_in_old, found.only_in_new), strict=True):
        if tensors:
            print_table((f"only in {name}", "form"), tensors.items())
    if found.reformed:
        rows = [(change.path, change.old, change.new) for change in found.reformed]
        print_table(("other form", *names), rows)
    if found.changed:
        columns = ("changed tensor", "elements", "max abs", "relative norm")
        print_table(columns, [_row(change) for change in found.changed])
    if found.values:
        rows = [(change.path, change.old, change.new) for change in found.values]
        print_table(("value", *names), rows)
    click.echo(
        f"{names[0]} and {names[1]} {'differ' if found else 'are equal'}: tensors: {found.equal} "
        f"equal, {len(found.changed)} changed, {len(found.reformed)} of another form, "
        f"{len(found.only_in_old)} only in the first, {len(found.only_in_new)} only in the second; "
        f"values: {len(found.values)} differ"
    )


def _row(change: TensorChange) -> tuple[str, str, str, str]:
    elements = f"{change.changed} of {change.elements}"
    if change.not_finite:
        elements += f", {change.not_finite} not finite"
    max_abs = "bytes differ" if change.max_abs is None else f"{change.max_abs:.6g}"
    relative = "" if change.relative_norm is None else f"{change.relative_norm:.3g}"
    return change.path, elements, max_abs, relative
