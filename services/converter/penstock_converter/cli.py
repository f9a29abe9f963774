"""``penstock convert`` and its commands."""

from __future__ import annotations

import click

from penstock_converter.checks.validate_cli import validate
from penstock_converter.hub_cli import push
from penstock_converter.jobs.run_cli import run
from penstock_converter.mapping.presets_cli import presets_command
from penstock_converter.recordings.inspect_cli import inspect

__all__ = ["convert"]


class _RunByDefault(click.Group):
    """``penstock convert BAG...`` is ``penstock convert run BAG...``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "run", self.commands["run"], args


@click.group(
    "convert",
    cls=_RunByDefault,
    context_settings={"ignore_unknown_options": True},
    subcommand_metavar="BAG... [KEY=VALUE]... | COMMAND [ARGS]...",
)
def convert() -> None:
    """Turn recordings into datasets, and look at recordings.

    `penstock convert BAG...` is short for `penstock convert run BAG...`; the options are in
    `penstock convert run --help`.

    \b
    Examples:
      penstock convert inspect session.bag
      penstock convert inspect session.bag --mapping-out robot.yaml
      penstock convert session.bag --mapping robot.yaml --out dataset
    """


for _command in (run, inspect, presets_command, validate, push):
    convert.add_command(_command)
