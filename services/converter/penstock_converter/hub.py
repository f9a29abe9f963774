"""Datasets to the Hugging Face Hub: files first, the tag that LeRobot looks for last."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from penstock.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from penstock_converter.jobs.request import HDF5_FOLDER

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["check_repository", "push_dataset"]

_PARTS = ("README.md", "meta/*", "data/*", "videos/*")
"""What is uploaded: the report of the conversion names paths of this machine, it stays here."""

_HDF5_PART = f"{HDF5_FOLDER}/*"
_KIND = "dataset"


def check_repository(repo_id: str, *, replace: bool = False) -> None:
    """Find out now what would stop ``push_dataset``.

    Raises:
        Unsupported: The extra is not installed.
        Unauthenticated: Nobody is logged in, or the token is not valid.
        InvalidInput: ``repo_id`` is no name of a repository.
        AlreadyExists: The repository holds files, and ``replace`` is not set.
        Unavailable: The Hub does not answer.
    """
    with _named_faults(repo_id):
        _open(repo_id, replace=replace)


def push_dataset(
    dataset: Path,
    repo_id: str,
    *,
    public: bool = False,
    with_hdf5: bool = False,
    replace: bool = False,
) -> str:
    """Upload a LeRobot dataset; an upload that broke off goes on where it was.

    Without its tag a dataset on the Hub cannot be opened by LeRobot: a half one is never taken for
    a whole one.

    Args:
        dataset: Folder of the dataset.
        repo_id: ``USER/NAME``, or a name of the user's own; made if needed.
        public: Whether a new repository can be seen by all.
        with_hdf5: Upload the HDF5 files as well.
        replace: Upload into a repository that holds files. Those of another dataset go, all others
            stay, and the dataset's ``README.md`` takes the place of the one that is there.

    Returns:
        Address of the dataset.

    Raises:
        NotFound: There is no dataset, or no HDF5 files in it.
        PermissionDenied: The token may not write there.
        Unsupported, Unauthenticated, InvalidInput, AlreadyExists, Unavailable: See
            ``check_repository``.
    """
    tag = _version(dataset)
    if with_hdf5 and not (dataset / HDF5_FOLDER).is_dir():
        raise NotFound(f"{dataset / HDF5_FOLDER}: there are no HDF5 files: leave --with-hdf5 out")
    with _named_faults(repo_id):
        from huggingface_hub.errors import RevisionNotFoundError  # noqa: PLC0415 - an extra

        api, name = _open(repo_id, replace=replace)
        address = api.create_repo(name, repo_type=_KIND, private=not public, exist_ok=True)
        with suppress(RevisionNotFoundError):
            api.delete_tag(name, tag=tag, repo_type=_KIND)
        api.upload_folder(
            repo_id=name,
            repo_type=_KIND,
            folder_path=dataset,
            allow_patterns=[*_PARTS, *([_HDF5_PART] if with_hdf5 else [])],
            delete_patterns=[*_PARTS[1:], _HDF5_PART] if replace else None,
            commit_message="Upload a dataset made by Penstock",
        )
        api.create_tag(name, tag=tag, repo_type=_KIND)
    return str(address)


def _version(dataset: Path) -> str:
    """Version of the format: LeRobot wants a tag of that name."""
    path = dataset / "meta" / "info.json"
    try:
        version = json.loads(path.read_text("utf-8"))["codebase_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFound(
            f"{dataset}: there is no LeRobot dataset: {path} is missing or cannot be read"
        ) from error
    return str(version)


def _open(repo_id: str, *, replace: bool) -> tuple[HfApi, str]:
    """The Hub, and the full name of a repository that may be written to."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - an extra
    from huggingface_hub.errors import (  # noqa: PLC0415 - same
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id  # noqa: PLC0415 - same

    validate_repo_id(repo_id)
    api = HfApi(library_name="penstock")
    user = str(api.whoami()["name"])
    name = repo_id if "/" in repo_id else f"{user}/{repo_id}"
    try:
        files = set(api.list_repo_files(name, repo_type=_KIND)) - {".gitattributes"}
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return api, name
    if files and not replace:
        raise AlreadyExists(
            f"dataset {name} on the Hub exists and holds {len(files)} files: choose another name, "
            f"or replace it: penstock convert push DATASET {name} --replace",
            reason="REPOSITORY_EXISTS",
        )
    return api, name


@contextmanager
def _named_faults(repo_id: str) -> Generator[None]:
    """Faults of the client as errors of Penstock."""
    try:
        from huggingface_hub.errors import (  # noqa: PLC0415 - an extra
            HfHubHTTPError,
            HFValidationError,
            LocalTokenNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"dataset {repo_id} on the Hub: {error.name} is not installed: pip install "
            "'penstock[hub]'"
        ) from error
    # Connections that fail are errors of the HTTP library, which differs between versions.
    http_faults = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    try:
        yield
    except HFValidationError as error:
        raise InvalidInput(
            f"{repo_id!r} cannot name a dataset: {error}", field="repo_id"
        ) from error
    except LocalTokenNotFoundError as error:
        raise Unauthenticated(_log_in(repo_id, "nobody is logged in")) from error
    except (OSError, RuntimeError, ValueError, *http_faults) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:  # noqa: PLR2004 - of HTTP
            raise Unauthenticated(_log_in(repo_id, "the token is not valid")) from error
        if status == 403:  # noqa: PLR2004 - same
            raise PermissionDenied(
                f"dataset {repo_id} on the Hub: the token may not write there: choose a name of "
                f"your own, or a token with that right ({_one_line(error)})"
            ) from error
        raise Unavailable(_again(repo_id, error)) from error


def _log_in(repo_id: str, problem: str) -> str:
    return f"dataset {repo_id} on the Hub: {problem}: run `hf auth login`, or set HF_TOKEN"


def _again(repo_id: str, error: Exception) -> str:
    return (
        f"dataset {repo_id} on the Hub: {type(error).__name__}: {_one_line(error)}: try again; "
        "what has arrived is not sent twice"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
