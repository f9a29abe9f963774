"""``penstock rollouts``: one file for each family of commands."""

from penstock.rollouts.cli.group import rollouts

__all__ = ["rollouts"]
