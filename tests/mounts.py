"""Disks of a test's own: small ones, and ones that refuse to be written."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["as_root", "mounted", "small_disk"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


@contextlib.contextmanager
def mounted(*options: str, at: Path) -> Iterator[Path]:
    """Mount something; skips the test where that is not allowed."""
    done = subprocess.run(["mount", *options, str(at)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def small_disk(folder: Path, size_bytes: int) -> contextlib.AbstractContextManager[Path]:
    """A disk of so many bytes at a new folder."""
    folder.mkdir()
    return mounted("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", at=folder)
