"""``penstock convert presets``: mappings that come with the converter."""

from __future__ import annotations

import click

__all__ = ["presets_command"]


@click.command("presets")
@click.argument("name", required=False)
def presets_command(name: str | None) -> None:
    """List mappings that are ready to use, or print the one called NAME.

    `--mapping NAME` takes one as it is, and KEY=VALUE changes it. A file of that name goes first.

    \b
    Examples:
      penstock convert presets
      penstock convert presets kuavo > robot.yaml
      penstock convert session.bag --mapping kuavo --out dataset task="Sort the parcels."
    """
    from penstock_converter.mapping.parsing import preset_text, presets

    if name is not None:
        click.echo(preset_text(name), nl=False)
        return
    known = presets()
    width = max(map(len, known))
    for preset, description in known.items():
        click.echo(f"{preset:{width}}  {description}")
