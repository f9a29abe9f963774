"""The ``penstock`` command: one front for the services and their clients.

Commands of a service come from its package, by entry point, so that each one needs only the extra
it belongs to.
"""

from __future__ import annotations

import logging
import sys
import time
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

import click

from penstock.disk import full_disk_named
from penstock.errors import PenstockError

__all__ = ["main"]

_EXTRAS = {"convert": "converter", "doctor": "sampler", "train": "trainer"}
_SECONDS = click.FloatRange(min=0.0)


class _EntryPointGroup(click.Group):
    """A group whose further commands are entry points, loaded when they are used."""

    def __init__(self, *args: object, entry_point_group: str, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportArgumentType] - click's own
        self._points = {point.name: point for point in entry_points(group=entry_point_group)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Own commands and those of installed services."""
        return sorted({*super().list_commands(ctx), *self._points})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; a missing extra becomes advice."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._points:
            return own
        return _load(self._points[cmd_name])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; a module that it misses while it runs becomes advice as well."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name, missing = ctx.invoked_subcommand or "", error.name or ""
            if name not in self._points or missing.startswith("penstock"):
                raise
            raise _advice(name, missing) from error


def _advice(name: str, missing: str) -> click.ClickException:
    extra = _EXTRAS.get(name, name)
    return click.ClickException(
        f"{name} needs the module {missing!r}: pip install 'penstock[{extra}]'"
    )


def _load(point: EntryPoint) -> click.Command:
    extra = _EXTRAS.get(point.name, point.name)
    try:
        return point.load()
    except ModuleNotFoundError as error:
        missing = error.name or ""

    @click.command(
        point.name,
        help=f"Needs pip install 'penstock[{extra}]' (module {missing} is missing).",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def advise() -> None:
        raise _advice(point.name, missing)

    return advise


@click.group(
    cls=_EntryPointGroup,
    entry_point_group="penstock.commands",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="penstock")
def penstock() -> None:
    """The data plane of robot learning.

    \b
    Examples:
      penstock convert bags/*.mcap --mapping robot.yaml --out dataset
      penstock serve sampler --data 'dataset/hdf5/*.hdf5' --port 50051
      penstock sample grpc://localhost:50051 --image-size 224 224
      penstock train --hdf5-path grpc://localhost:50051 --max-timesteps 100000
      penstock checkpoints list grpc://localhost:50053
    """


@penstock.group(cls=_EntryPointGroup, entry_point_group="penstock.services")
def serve() -> None:
    """Run one of the services.

    \b
    Examples:
      penstock serve sampler --data '/data/*.hdf5' --host 0.0.0.0 --port 50051
      penstock serve checkpointer --root /checkpoints --port 50053
    """


@penstock.command()
@click.argument("target")
@click.option("--timeout-s", type=_SECONDS, default=5.0, show_default=True, help="Seconds to wait.")
def health(target: str, timeout_s: float) -> None:
    """Exit with 0 if the server at TARGET is serving, for probes.

    \b
    Example:
      penstock health grpc://localhost:50051
    """
    from penstock.client.health import check_health
    from penstock.targets import Target

    found = check_health(Target.parse(target), timeout_s)
    click.echo(found.status)
    if not found.serving:
        raise SystemExit(1)


@penstock.command()
@click.argument("targets", nargs=-1, required=True)
@click.option(
    "--timeout-s", type=_SECONDS, default=5.0, show_default=True, help="Seconds to wait for each."
)
@click.option("--watch", is_flag=True, help="Look again and again, until interrupted.")
@click.option(
    "--every-s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON for each look.")
def status(
    targets: tuple[str, ...], timeout_s: float, *, watch: bool, every_s: float, as_json: bool
) -> None:
    """Show the health of servers, and what each replica of a sampler does.

    The exit status is 1 when a server or a replica is away.

    \b
    Examples:
      penstock status grpc://localhost:50051 grpc://localhost:50053
      penstock status 'grpc://sampler:50051?replicas=dns' --watch
      penstock status grpc://localhost:50051 --json
    """
    from penstock.client.status_report import report_status

    if not report_status(targets, timeout_s, watch_s=every_s if watch else None, as_json=as_json):
        raise SystemExit(1)


@penstock.command()
@click.argument("target")
@click.option("--batch-size", default=256, show_default=True, help="Transitions in a batch.")
@click.option(
    "--batches",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many to fetch.",
)
@click.option("--image-size", type=(int, int), help="Height and width; default: as stored.")
@click.option("--seed", default=0, show_default=True, help="Seed of the plan.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "all"]),
    default="all",
    show_default=True,
    help="Episodes to draw from.",
)
@click.option(
    "--retry-s",
    type=_SECONDS,
    default=5.0,
    show_default=True,
    help="Seconds to wait for the server.",
)
def sample(
    target: str,
    batch_size: int,
    batches: int,
    image_size: tuple[int, int] | None,
    seed: int,
    split: str,
    retry_s: float,
) -> None:
    """Fetch batches from a dataset and show what is in them and how fast they come.

    \b
    Examples:
      penstock sample 'file:///data/*.hdf5' --image-size 224 224
      penstock sample grpc://localhost:50051 --batch-size 64 --batches 100
    """
    from rich.console import Console
    from rich.table import Table

    import penstock as sdk

    console = Console()
    plan = sdk.Plan.from_dict({"seed": seed, "batch_size": batch_size, "split": split})
    with sdk.open_sampler(target, image_size=image_size, retry_s=retry_s) as sampler:
        info = sampler.info
        console.print(
            f"{info.transitions} transitions, {info.episodes} episodes, {len(info.files)} files, "
            f"{len(info.refused)} refused, version {info.version[:12]}"
        )
        for refused in info.refused:
            line = f"refused {refused.file_id}: {refused.message}"
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        begun, first = time.perf_counter(), None
        for batch in sampler.batches(plan, stop_step=batches):
            first = first or batch
        seconds = time.perf_counter() - begun
        table = Table("array", "shape", "dtype", "min", "max")
        if first is not None:
            arrays = {f"frames ({', '.join(first.cameras)})": first.frames, **first.columns}
            for name, values in arrays.items():
                low, high = (values.min(), values.max()) if values.size else ("", "")
                table.add_row(name, str(values.shape), str(values.dtype), str(low), str(high))
        console.print(table)
        console.print(f"{batches / seconds:.1f} batches/s")
        transfer = sampler.transfer
        if transfer.wire_bytes:
            console.print(
                f"{transfer.wire_bytes / seconds / 1e6:.0f} MB/s on the wire, compression "
                f"{transfer.raw_bytes / transfer.wire_bytes:.2f}, {transfer.retries} retries"
            )


def main() -> None:
    """Run the command line; errors a user can mend become one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        with full_disk_named(" ".join(["penstock", *sys.argv[1:2]])):
            penstock()
    except PenstockError as error:
        _fail(error.message)
    except OSError as error:
        # Of a file or a port that the user named: a traceback would say no more.
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> NoReturn:
    click.secho(f"error: {message}", fg="red", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
