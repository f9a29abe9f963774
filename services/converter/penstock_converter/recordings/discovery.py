"""Recordings that paths, folders and patterns name."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from penstock.errors import NotFound
from penstock_converter.recordings.bag import STORAGE_SUFFIXES, storage_files

__all__ = ["bag_files", "find_bags"]


def find_bags(inputs: Iterable[str]) -> list[Path]:
    """Recordings in the order of ``inputs``, each once; those of a folder or pattern sorted.

    A folder is one recording if it holds ``metadata.yaml``, a single storage file, or files named
    after it as a recorder does (``name_0.mcap``, ``name_1.mcap``); else it stands for the
    recordings below it. Hidden files and folders are left out.

    Raises:
        NotFound: An input matches nothing.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        path = Path(text)
        # A file may have brackets in its name, so an exact match comes first.
        matches = [path] if path.exists() else [Path(m) for m in glob.glob(text, recursive=True)]  # noqa: PTH207 - keeps absolute patterns simple
        bags = [bag for match in sorted(matches) for bag in _expand(match, named=match == path)]
        if not bags:
            raise NotFound(
                f"{text}: no recording matches: name .bag, .mcap or .db3 files, or folders of them",
                metadata={"input": text},
            )
        for bag in bags:
            found.setdefault(bag.resolve(), bag)
    return list(found.values())


def bag_files(bag: Path) -> list[Path]:
    """All files of a recording, sorted."""
    if not bag.is_dir():
        return [bag]
    metadata = bag / "metadata.yaml"
    return [*([metadata] if metadata.exists() else []), *storage_files(bag)]


def _expand(path: Path, *, named: bool) -> list[Path]:
    if path.is_file():
        # A file that somebody names is tried, whatever its name; others must look like bags.
        return [path] if named or path.suffix in STORAGE_SUFFIXES else []
    if not path.is_dir():
        return []
    if _is_recording(path):
        return [path]
    children = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    return [bag for child in children for bag in _expand(child, named=False)]


def _is_recording(folder: Path) -> bool:
    if (folder / "metadata.yaml").is_file():
        return True
    files = storage_files(folder)
    named_after = re.compile(re.escape(folder.name) + r"_\d+")
    return len(files) == 1 or (
        len(files) > 1 and all(named_after.fullmatch(file.stem) for file in files)
    )
