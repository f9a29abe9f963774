"""What ``tests/e2e/test_converter_chaos.py`` starts and kills, and what it compares."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import h5py

__all__ = [
    "contents",
    "convert",
    "made",
]


def convert(arguments):
    """Convert as the command does, in a process group of its own."""
    os.setpgid(0, 0)
    from penstock.cli import main

    sys.argv = ["penstock", "convert", "run", *arguments]
    main()


def contents(folder):
    """What is in each file of a dataset, as far as two conversions must agree."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def made(found):
    """The same without what the checks add that follow a conversion."""
    return {name: each for name, each in found.items() if "validation" not in name}


def _content(path):
    if path.name in ("conversion.json", "validation.json"):
        report = json.loads(path.read_text())
        return {key: report[key] for key in report if key not in ("seconds", "peak_rss_bytes")}
    if path.suffix != ".hdf5":
        # Tables, videos and all other JSON, byte by byte.
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = {}
    with h5py.File(path) as file:
        found[""] = {name: str(value) for name, value in file.attrs.items()}

        def note(name, item):
            if isinstance(item, h5py.Dataset):
                data = hashlib.sha256(item[...].tobytes()).hexdigest()
                found[name] = (str(item.dtype), item.shape, data)

        file.visititems(note)
    return found
