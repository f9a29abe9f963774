"""``penstock rollouts convert``: old files into a store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from penstock.errors import PenstockError
from penstock.rollouts.cli import arguments
from penstock.rollouts.cli.files import numbered
from penstock.rollouts.cli.progress import progress
from penstock.rollouts.old_files import read_old
from penstock.rollouts.tensors import leaves_of

__all__ = ["convert"]


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option("--to", "target", required=True, help="A directory or a server to put them into.")
@click.option("--stream", default="rollouts", show_default=True, help="Name of the stream there.")
@click.option(
    "--trust",
    is_flag=True,
    help="Read pickles, as far as they hold tensors, arrays and dicts: only for files whose origin "
    "you know.",
)
@click.option(
    "--first-iteration",
    type=click.IntRange(min=0),
    help="Number of the first file, the others follow; default: the last number in each name.",
)
@arguments.producer
@arguments.threads
@arguments.encoding_options
def convert(
    files: tuple[Path, ...],
    target: str,
    stream: str,
    first_iteration: int | None,
    producer: str,
    threads: int,
    codec: str,
    level: int | None,
    *,
    trust: bool,
) -> None:
    """Convert old rollout FILES, LZ4 frames of pickles (.lz4) or of torch.save, into a store.

    Files are told apart by their content. Of a pickle only tensors, arrays, dicts and TensorDicts
    are made; one that names anything else is refused, and nothing it names is run. What is neither
    tensor nor array is left out and named. A file that cannot be converted is reported and the
    others go on; the exit status is 1 then. Doing it again converts what is missing.

    \b
    Examples:
      penstock rollouts convert --trust old/*.lz4 --to file:///rollouts
      penstock rollouts convert --trust old/*.lz4 --to grpc://localhost:50053 --stream nav
      penstock rollouts convert --trust a.lz4 b.lz4 --to rollouts --first-iteration 1 --codec zstd
    """
    numbers = numbered(files, first_iteration)
    encoding = arguments.encoding_option(codec, level)
    counts: Counter[str] = Counter()
    with arguments.open_store(target, create=True) as client, progress(len(files)) as shown:
        for iteration, path in zip(numbers, files, strict=True):
            shown.next(str(path))
            try:
                old = read_old(path, trusted=trust)
                info = client.push(
                    leaves_of(old.data),
                    stream,
                    iteration,
                    producer=producer,
                    encoding=encoding,
                    threads=threads,
                    wait_s=0.0,
                )
            except PenstockError as error:
                counts["failed"] += 1
                # Most of them name the file themselves.
                named = error.message if str(path) in error.message else f"{path}: {error.message}"
                click.secho(f"failed: {named}", fg="red", err=True)
                continue
            counts["converted"] += 1
            for what, paths in (("left out", old.left_out), ("now float32", old.widened)):
                if paths:
                    click.echo(f"{path}: {what}: {', '.join(paths)}")
            before, after = path.stat().st_size, info.digest.size_bytes
            click.echo(f"{path}: {info}, {before} bytes before, {after} now")
    click.echo(f"{counts['converted']} converted, {counts['failed']} failed")
    if counts["failed"]:
        raise SystemExit(1)
