"""Commands for what stays: ``penstock checkpoints pin|unpin|gc``."""

from __future__ import annotations

import click
from rich.filesize import decimal

from penstock.client.checkpoint_cli import arguments
from penstock.client.checkpoint_cli.tables import print_table
from penstock.retention import Collected, KeepBest, RetentionPolicy

__all__ = ["gc", "pin", "unpin"]

_which = click.argument("which")


@click.command()
@arguments.target
@arguments.run
@_which
def pin(target: str, run: str, which: str) -> None:
    """Keep WHICH (a step, a tag, or latest) of RUN until it is let go, whatever gc says.

    \b
    Example:
      penstock checkpoints pin grpc://localhost:50053 my-run best
    """
    with arguments.open_store(target) as client:
        info = client.pin(run, arguments.which_of(which))
    click.echo(f"{info.run}/{info.step} pinned")


@click.command()
@arguments.target
@arguments.run
@_which
def unpin(target: str, run: str, which: str) -> None:
    """Let a pinned checkpoint go; the next gc removes it if no rule keeps it.

    \b
    Example:
      penstock checkpoints unpin grpc://localhost:50053 my-run 1000
    """
    with arguments.open_store(target) as client:
        info = client.unpin(run, arguments.which_of(which))
    click.echo(f"{info.run}/{info.step} unpinned")


@click.command()
@arguments.target
@click.argument("run", required=False)
@click.option("--keep-last", type=click.IntRange(0), default=0, help="Keep the newest so many.")
@click.option(
    "--keep-every", type=click.IntRange(0), default=0, help="Keep steps that are multiples of this."
)
@click.option(
    "--keep-best",
    multiple=True,
    metavar="METRIC:COUNT[:max]",
    help="Keep the best so many by a metric, lowest first, or highest with :max; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def gc(
    target: str,
    run: str | None,
    keep_last: int,
    keep_every: int,
    keep_best: tuple[str, ...],
    *,
    dry_run: bool,
) -> None:
    """Remove the checkpoints of RUN, or of all runs, that no rule keeps.

    Kept is what any rule names, and always what is pinned, has a tag, or is the base of a kept
    one. Without rules the policy of the store decides.

    \b
    Examples:
      penstock checkpoints gc grpc://localhost:50053 my-run --keep-last 3 --dry-run
      penstock checkpoints gc file:///checkpoints --keep-last 3 --keep-every 10000
      penstock checkpoints gc file:///checkpoints my-run --keep-best val_loss:3 --keep-best r:1:max
    """
    policy = RetentionPolicy(
        keep_last=keep_last,
        keep_every=keep_every,
        keep_best=tuple(KeepBest.parse(rule) for rule in keep_best),
    )
    with arguments.open_store(target) as client:
        collected = client.collect(run, policy or None, dry_run=dry_run)
    _print(collected, dry_run=dry_run)


def _print(collected: Collected, *, dry_run: bool) -> None:
    removed = "would be removed" if dry_run else "removed"
    rows = [
        (info.run, info.step, removed, decimal(info.size_bytes), "no rule keeps it")
        for info in collected.removed
    ]
    rows += [(run, step, "kept", "", ", ".join(reasons)) for run, step, reasons in collected.kept]
    if rows:
        print_table(
            ("run", "step", "", "size", "why"),
            [(run, str(step), *rest) for run, step, *rest in sorted(rows)],
        )
    click.echo(
        f"{len(collected.removed)} {removed}, {len(collected.kept)} kept, "
        f"{collected.freed_bytes} bytes {'would be freed' if dry_run else 'freed'}"
    )
