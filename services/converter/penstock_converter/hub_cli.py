"""Options and command that upload datasets: ``--push-to-hub``, ``penstock convert push``."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from penstock.errors import AlreadyExists, InvalidInput, PenstockError
from penstock_converter.exit_status import NOT_UPLOADED
from penstock_converter.mapping.model import Mapping

__all__ = ["Upload", "push", "upload_options"]

_PUBLIC = click.option("--public", is_flag=True, help="Let everybody see a new repository.")
_WITH_HDF5 = click.option("--with-hdf5", is_flag=True, help="Upload the HDF5 files as well.")


class Upload(NamedTuple):
    """Where a dataset goes when it is complete.

    Attributes:
        repo_id: Name on the Hub; None: nowhere.
        public: Whether a new repository can be seen by all.
        with_hdf5: Whether HDF5 files are uploaded as well.
    """

    repo_id: str | None
    public: bool
    with_hdf5: bool

    def check(self, mapping: Mapping, hdf5: Path | None) -> None:
        """Find out before hours of work what would stop the upload.

        Raises:
            InvalidInput: The conversion does not make what is to be uploaded.
            PenstockError: See ``check_repository``.
        """
        if self.repo_id is None:
            if self.public or self.with_hdf5:
                raise InvalidInput("--public and --with-hdf5 go with --push-to-hub REPO_ID")
            return
        if mapping.outputs.lerobot is None:
            raise InvalidInput(
                "--push-to-hub: the mapping has no outputs.lerobot, no dataset to upload",
                field="push_to_hub",
            )
        if self.with_hdf5 and (mapping.outputs.hdf5 is None or hdf5 is not None):
            raise InvalidInput(
                "--with-hdf5: HDF5 files are uploaded from the dataset: the mapping needs "
                "outputs.hdf5, and --hdf5 is left out",
                field="with_hdf5",
            )
        from penstock_converter.hub import check_repository

        check_repository(self.repo_id)

    def push(self, dataset: Path) -> None:
        """Upload; what fails ends the command with a status of its own."""
        if self.repo_id is None:
            return
        try:
            _push(dataset, self.repo_id, public=self.public, with_hdf5=self.with_hdf5)
        except PenstockError as error:
            click.secho(f"not uploaded: {error.message}", fg="red", err=True)
            # The repository was free or empty before: what is in it now is of this dataset.
            replace = not isinstance(error, AlreadyExists)
            click.echo(
                f"{dataset} is complete; to upload it: {self._command(dataset, replace=replace)}",
                err=True,
            )
            raise SystemExit(NOT_UPLOADED) from error

    def tell_unsound(self, dataset: Path) -> None:
        """Say that a dataset with faults was not uploaded, if it was to be."""
        if self.repo_id is None:
            return
        click.echo(
            f"not uploaded, as the checks found faults; to do it all the same: "
            f"{self._command(dataset, replace=False)}",
            err=True,
        )

    def _command(self, dataset: Path, *, replace: bool) -> str:
        """The command that uploads the dataset by itself."""
        command = ["penstock", "convert", "push", str(dataset), str(self.repo_id)]
        command += ["--public"] * self.public + ["--with-hdf5"] * self.with_hdf5
        return shlex.join([*command, *["--replace"] * replace])


def upload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options; the command takes what they say as ``upload``."""

    @click.option(
        "--push-to-hub",
        "repo_id",
        metavar="REPO_ID",
        help="Upload the dataset to the Hugging Face Hub as USER/NAME; private by default.",
    )
    @_PUBLIC
    @_WITH_HDF5
    @functools.wraps(command)
    def with_upload(
        *args: Any, repo_id: str | None, public: bool, with_hdf5: bool, **options: Any
    ) -> Any:
        return command(*args, upload=Upload(repo_id, public, with_hdf5), **options)

    return with_upload


@click.command("push")
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("repo_id")
@_PUBLIC
@_WITH_HDF5
@click.option(
    "--replace",
    is_flag=True,
    help="Upload into a repository that holds files already: those of another dataset go.",
)
def push(dataset: Path, repo_id: str, *, public: bool, with_hdf5: bool, replace: bool) -> None:
    """Upload a dataset to the Hugging Face Hub.

    DATASET is a folder that `penstock convert run` made; REPO_ID is USER/NAME, private by default.
    The repository gets the tag that LeRobot looks for when all files have arrived. An upload that
    broke off goes on where it was with --replace.

    \b
    Examples:
      penstock convert push dataset USER/NAME
      penstock convert push dataset USER/NAME --public --with-hdf5
    """
    _push(dataset, repo_id, public=public, with_hdf5=with_hdf5, replace=replace)


def _push(dataset: Path, repo_id: str, **options: bool) -> None:
    from penstock_converter.hub import push_dataset

    click.echo(f"uploaded to {push_dataset(dataset, repo_id, **options)}", err=True)
