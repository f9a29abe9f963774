"""``penstock serve converter``, apart from the commands that need no settings of a server."""

from __future__ import annotations

import click

from penstock.config import settings_options
from penstock_converter.serving.settings import ConverterSettings

__all__ = ["serve"]


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
