"""The command ``penstock convert validate``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["validate"]


@click.command("validate")
@click.argument(
    "dataset", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DATASET"
)
@click.option("--full", is_flag=True, help="Decode and compare all frames, not a sample.")
@click.option(
    "--bags",
    multiple=True,
    metavar="BAG",
    help="A recording, or a folder of them, that the dataset was made of; may be repeated.  "
    "[default: where conversion.json says they were]",
)
@click.option(
    "--hdf5",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the HDF5 files.  [default: hdf5 in DATASET]",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for contact sheets and plots.  [default: validation in DATASET]",
)
@click.option("--no-pictures", is_flag=True, help="Draw nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def validate(
    dataset: Path,
    bags: tuple[str, ...],
    hdf5: Path | None,
    pictures: Path | None,
    *,
    full: bool,
    no_pictures: bool,
    as_json: bool,
) -> None:
    """Check a dataset: metadata, tables, videos, statistics, HDF5 files, recordings.

    What is stated is compared with what is there, and, where the recordings are at hand, what is
    there with what was recorded. The report is validation.json in DATASET; contact sheets and
    plots for the eye are in its folder validation.

    The exit status is 0 when no check failed, 1 when one did.

    \b
    Examples:
      penstock convert validate dataset
      penstock convert validate dataset --full --bags session.bag
      penstock convert validate dataset --hdf5 files --json --no-pictures
    """
    from rich.console import Console

    from penstock.errors import InvalidInput
    from penstock_converter.checks.report import show_validation
    from penstock_converter.checks.validation import validate_dataset
    from penstock_converter.quiet import hush_logs
    from penstock_converter.recordings.discovery import find_bags

    hush_logs()
    folder = None if no_pictures else pictures or dataset / "validation"
    found = validate_dataset(
        dataset,
        full=full,
        bags=find_bags(bags) if bags else None,
        hdf5=hdf5,
        pictures=folder,
    )
    try:
        found.write(dataset)
    except OSError as error:
        raise InvalidInput(
            f"{dataset}: the report cannot be written there: {error}", field="dataset"
        ) from error
    finally:
        if as_json:
            print(found.to_json())
        else:
            show_validation(Console(), found)
    if not found.passed:
        raise SystemExit(1)
