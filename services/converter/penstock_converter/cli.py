"""Commands of the converter: ``penstock convert`` and ``penstock serve converter``."""

from __future__ import annotations

import click

from penstock.config import settings_options
from penstock_converter.checks.validate_cli import validate
from penstock_converter.hub_cli import push
from penstock_converter.jobs.run_cli import run
from penstock_converter.mapping.presets_cli import presets_command
from penstock_converter.recordings.inspect_cli import inspect
from penstock_converter.serving.settings import ConverterSettings

__all__ = ["convert", "serve"]


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


@click.command("converter")
@settings_options(ConverterSettings)
def serve(settings: ConverterSettings) -> None:
    """Convert recordings for clients on other machines.

    Clients name recordings and datasets relative to two folders of this machine. Each conversion
    is a process of its own.

    \b
    Examples:
      penstock serve converter --input-root /recordings --output-root /data --host 0.0.0.0
      PENSTOCK_INPUT_ROOT=bags PENSTOCK_OUTPUT_ROOT=datasets penstock serve converter
    """
    from penstock.server import serve as serve_until_signal
    from penstock_converter.service import ConverterService
    from penstock_converter.serving.conversions import Conversions

    conversions = Conversions(settings)
    try:
        serve_until_signal(
            "converter",
            settings,
            ConverterService(conversions).register,
            on_drain=conversions.close,
        )
    finally:
        conversions.close()
