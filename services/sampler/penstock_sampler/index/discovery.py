"""Which files a dataset consists of, and the names they go by on every replica."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import NotFound

__all__ = ["FoundFile", "find_files"]

_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class FoundFile:
    """A file of the dataset; ``file_id`` is its path relative to the dataset's root."""

    file_id: str
    path: Path


def find_files(locations: Iterable[str]) -> list[FoundFile]:
    """Files that paths, folders and glob patterns name, sorted by id, each once.

    A folder stands for all ``.hdf5`` and ``.h5`` files below it; ``**`` crosses folders. Hidden
    folders, where others stage what is not complete, are passed over. The dataset's root is the
    longest folder without a wildcard that all locations share.

    Raises:
        NotFound: A location matches nothing.
    """
    paths: set[str] = set()
    folders: list[str] = []
    for location in locations:
        # Not resolved: a link's own name is what the user sees and what replicas share.
        absolute = os.path.abspath(os.path.expanduser(location))  # noqa: PTH100, PTH111
        # POSIX leaves open what two slashes in front mean; here it is one, as everywhere else.
        absolute = f"/{absolute.lstrip('/')}"
        folder, matches = _expand(absolute)
        if not matches:
            raise NotFound(
                f"{location}: no file matches: check the pattern, and that the files end in "
                f"{' or '.join(_SUFFIXES)} when a folder is named",
                metadata={"location": location},
            )
        folders.append(folder)
        paths.update(matches)
    # Ids by cutting off what all paths begin with: to compare paths part by part takes longer.
    root = os.path.join(os.path.commonpath(folders), "")  # noqa: PTH118
    return sorted(
        (FoundFile(path.removeprefix(root), Path(path)) for path in paths),
        key=lambda file: file.file_id,
    )


def _is_hidden(entry: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in entry.relative_to(folder).parts)


def _expand(absolute: str) -> tuple[str, list[str]]:
    """The longest folder without a wildcard, and the files."""
    path = Path(absolute)
    if path.is_dir():
        found = (entry for entry in path.rglob("*") if entry.suffix in _SUFFIXES)
        return absolute, [
            str(entry) for entry in found if not entry.is_dir() and not _is_hidden(entry, path)
        ]
    # A file may have brackets in its name, so an exact match comes first.
    if path.exists() or not glob.has_magic(absolute):
        return str(path.parent), [absolute] if path.exists() else []
    plain: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    matches = glob.glob(absolute, recursive=True)  # noqa: PTH207 - keeps absolute patterns simple
    return str(Path(*plain)), [match for match in matches if not os.path.isdir(match)]  # noqa: PTH112
