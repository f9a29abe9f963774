"""Commands between a store and files: ``penstock rollouts pull|push``."""

from __future__ import annotations

import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import click
import numpy as np

from penstock.client.checkpoint_files.export import write_whole
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, PenstockError
from penstock.rollout_file import Encoder, Leaves, Limits, read
from penstock.rollouts.cli import arguments
from penstock.rollouts.cli.progress import progress
from penstock.rollouts.old_files import iteration_of_name
from penstock.rollouts.selecting import parse_envs, parse_steps
from penstock.streams import Selection

__all__ = ["load_leaves", "pull", "push"]

_KINDS = (".npz", ".rollout")
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@click.command()
@arguments.target
@arguments.stream
@arguments.which
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write: .npz for NumPy, or .rollout.",
)
@click.option("--envs", help="Environments: 3, 0-7 or 0-7,12; default: all.")
@click.option("--fields", help="Paths with commas between: observation/lidar,reward.")
@click.option("--steps", help="From the first to before the last: 0:16, 8: or :8.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@arguments.threads
@arguments.encoding_options
def pull(
    target: str,
    stream: str,
    which: str,
    out: Path,
    *,
    envs: str | None,
    fields: str | None,
    steps: str | None,
    threads: int,
    codec: str,
    level: int | None,
    force: bool,
) -> None:
    """Fetch a rollout, or the part of it that is chosen, into a file.

    WHICH is a sequence, PRODUCER/ITERATION, or latest (the default). What is not chosen is not
    sent. In a .npz each array goes by its path (observation/lidar).

    \b
    Examples:
      penstock rollouts pull grpc://localhost:50053 nav latest --out last.npz
      penstock rollouts pull grpc://localhost:50053 nav 12 --out twelve.rollout --codec zstd
      penstock rollouts pull file:///rollouts nav main/120 --out some.npz --envs 0-7 --steps 0:16
      penstock rollouts pull file:///rollouts nav --out lidar.npz --fields observation/lidar,reward
    """
    _check_kind(out)
    if out.exists() and not force:
        raise click.ClickException(f"{out} exists: give another name, or --force")
    if not out.parent.is_dir():
        raise click.ClickException(f"{out}: there is no folder {out.parent}: make it first")
    first_step, count = (0, None) if steps is None else parse_steps(steps)
    selection = Selection(
        envs=None if envs is None else parse_envs(envs),
        fields=None if fields is None else tuple(part.strip() for part in fields.split(",")),
        first_step=first_step,
        steps=count,
    )
    encoding = arguments.encoding_option(codec, level)
    with arguments.open_store(target) as client:
        pulled = client.pull(
            stream, arguments.which_of(which), selection=selection, threads=threads
        )
    if out.suffix == ".npz":
        write_whole(out, lambda part: _write_npz(part, pulled.leaves))
    else:
        encoder = Encoder(pulled.leaves, encoding, threads=threads)
        write_whole(out, lambda part: _write_rollout(part, encoder))
    envs_and_steps = next(iter(pulled.leaves.values())).shape[:2]
    click.echo(
        f"{pulled.info}: {envs_and_steps[0]} envs x {envs_and_steps[1]} steps of "
        f"{len(pulled.leaves)} fields in {out}, {out.stat().st_size} bytes"
    )


@click.command()
@arguments.target
@arguments.stream
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option(
    "--first-iteration",
    type=click.IntRange(min=0),
    help="Number of the first file, the others follow; default: the last number in each name.",
)
@click.option(
    "--policy-version",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the policy that acted.",
)
@arguments.producer
@arguments.threads
@arguments.encoding_options
def push(
    target: str,
    stream: str,
    files: tuple[Path, ...],
    *,
    first_iteration: int | None,
    policy_version: int,
    producer: str,
    threads: int,
    codec: str,
    level: int | None,
) -> None:
    """Push FILES (.rollout or .npz) to a STREAM, which is made if it is missing.

    A .rollout goes as it is; --codec, --level and --threads are for .npz.

    \b
    Examples:
      penstock rollouts push grpc://localhost:50053 nav rollout_000120.rollout
      penstock rollouts push file:///rollouts nav a.npz b.npz --first-iteration 1
    """
    for path in files:
        _check_kind(path)
    numbers = numbered(files, first_iteration)
    encoding = arguments.encoding_option(codec, level)
    with arguments.open_store(target, create=True) as client, progress(len(files)) as shown:
        for iteration, path in zip(numbers, files, strict=True):
            shown.next(str(path))
            if path.suffix == ".rollout":
                with _named(path):
                    info = client.push_encoded(
                        path.read_bytes(),
                        stream,
                        iteration,
                        producer=producer,
                        policy_version=policy_version,
                        wait_s=0.0,
                    )
            else:
                info = client.push(
                    load_leaves(path),
                    stream,
                    iteration,
                    producer=producer,
                    policy_version=policy_version,
                    encoding=encoding,
                    threads=threads,
                    wait_s=0.0,
                )
            click.echo(f"{path}: {info}, sequence {info.sequence}, {info.digest}")


def numbered(files: tuple[Path, ...], first_iteration: int | None) -> list[int]:
    """Which iteration each file is.

    Raises:
        InvalidInput: Two are the same, or a name has no number.
    """
    if first_iteration is not None:
        return list(range(first_iteration, first_iteration + len(files)))
    found: dict[int, Path] = {}
    for path in files:
        number = iteration_of_name(path)
        if number in found:
            raise InvalidInput(
                f"{found[number]} and {path} both have the number {number}: give "
                "--first-iteration to number the files in the order they are named in",
                field="first_iteration",
            )
        found[number] = path
    return list(found)


def load_leaves(path: Path) -> Leaves:
    """The leaves of a .rollout or .npz file.

    Raises:
        Corrupt: It is damaged.
        InvalidInput: It holds what no rollout can.
    """
    if path.suffix == ".rollout":
        with _named(path), path.open("rb") as file:
            return read(file)
    try:
        _check_npz(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise Corrupt(f"{path} is no .npz of plain arrays: {error}") from error


def _check_npz(path: Path) -> None:
    """Look at the sizes that a .npz claims before NumPy allocates them."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read_header = _NPY_HEADERS[version]
                shape, _, dtype = read_header(file)
                size_bytes = prod(shape) * dtype.itemsize
                if size_bytes > entry.file_size:
                    raise ValueError(f"{entry.filename} has {entry.file_size} bytes for {shape}")
            total += size_bytes
    if total > Limits().raw_size_bytes:
        raise LimitExceeded(
            f"{path} unpacks to {total} bytes, at most {Limits().raw_size_bytes} make a rollout"
        )


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Errors inside name the file."""
    try:
        yield
    except PenstockError as error:
        error.message = f"{path}: {error.message}"
        error.args = (error.message,)
        raise


def _check_kind(path: Path) -> None:
    if path.suffix not in _KINDS:
        raise InvalidInput(f"{path}: expected a name that ends in .npz or .rollout", field="file")


def _write_npz(part: Path, leaves: Leaves) -> None:
    with part.open("wb") as file:
        np.savez(file, **leaves)  # pyright: ignore[reportArgumentType] - names of arrays


def _write_rollout(part: Path, encoder: Encoder) -> None:
    with part.open("wb") as file:
        for buffer in encoder:
            file.write(buffer)
