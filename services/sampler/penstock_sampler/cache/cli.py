"""Commands that prepare a dataset: ``penstock sampler warm``."""

from __future__ import annotations

import click

from penstock.config import settings_options
from penstock.cores import usable_cores
from penstock_sampler.settings import DataSettings

__all__ = ["sampler"]


@click.group("sampler")
def sampler() -> None:
    """Prepare datasets for the sampler.

    \b
    Examples:
      penstock sampler warm '/data/*.hdf5' --image-size 224 224
    """


@sampler.command("warm")
@click.argument("target")
@click.option(
    "--image-size",
    type=(click.IntRange(1, 4096), click.IntRange(1, 4096)),
    default=None,
    metavar="HEIGHT WIDTH",
    help="Size of the images that training asks for; as they are stored if not given.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=usable_cores,
    show_default="one a core",
    help="Files at a time.",
)
@settings_options(DataSettings)
def warm(
    target: str, image_size: tuple[int, int] | None, jobs: int, settings: DataSettings
) -> None:
    """Resize and encode the frames of TARGET ahead of training.

    TARGET is a file:// target, a path, a folder or a pattern. Training and serving use the frames
    from then on, and also those of a run of this command that is not finished. What is cached
    already is passed over, so the command can be interrupted and given again. The exit status is
    1 when a file is refused or could not be cached.

    \b
    Examples:
      penstock sampler warm '/data/*.hdf5' --image-size 224 224
      penstock sampler warm /data --jobs 4 --cache-dir /fast/frames
      penstock sampler warm file:///data/arm.hdf5 --cameras left,wrist=wrist_rgb
    """
    # Loaded here, so that --help does not wait for HDF5.
    from rich.console import Console

    from penstock.batch import FrameSpec
    from penstock.targets import Target
    from penstock_sampler.backend import open_backend
    from penstock_sampler.cache.warm_view import show_progress, show_report

    console = Console()
    backend = open_backend(Target.parse(target), settings)
    try:
        warming = backend.warm(jobs, FrameSpec(*(image_size or (0, 0))))
        report = show_progress(console, warming)
        refused = len(backend.info().refused)
        show_report(console, report, backend.cache_status(), refused)
    finally:
        backend.close()
    if refused or not report.complete:
        raise SystemExit(1)
