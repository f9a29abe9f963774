"""Environments of peers, each apart from Penstock's own and from the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["ENVIRONMENTS", "environment", "last_lines"]

ENVIRONMENTS = Path(__file__).parent / ".envs"


def environment(name: str, requirements: Path) -> Path:
    """The Python of an environment, which is made first if it is not there.

    Args:
        name: Of its folder.
        requirements: What is in it; when this file changes it is made anew.

    Raises:
        RuntimeError: It cannot be made; with the installer's last lines.
    """
    folder = ENVIRONMENTS / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or ready.read_text() != requirements.read_text():
        uv = str(Path(sys.executable).with_name("uv"))
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", "3.11", str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"no environment: {last_lines(done.stderr)}")
        ready.write_text(requirements.read_text())
    return python


def last_lines(text: str) -> str:
    """The end of what a command printed, on one line."""
    return " | ".join(text.strip().splitlines()[-3:])[-600:]
