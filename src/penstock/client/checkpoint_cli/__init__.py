"""``penstock checkpoints``: one file for each family of commands."""

from penstock.client.checkpoint_cli.group import checkpoints

__all__ = ["checkpoints"]
