"""Builds the native kernels (``src/penstock/native``) into the wheel or the editable checkout.

Without a C compiler, or where it fails, the installation goes on without them and says so:
``penstock.native`` then leaves the work to NumPy. ``CC`` names a compiler; else ``cc``, ``gcc`` and
``clang`` are tried. A wheel with kernels is tagged for its platform, one without for any.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = Path("src/penstock/native")
_LIBRARY = _SOURCES / "kernels.so"
# No -march: the library chooses its instructions when it runs.
_FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-s")


class KernelsHook(BuildHookInterface):
    """Compiles ``*.c`` to one shared library that ctypes loads."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library before the files of the wheel are collected."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        problem = build(root)
        if problem:
            # A library of older sources must not get into the wheel.
            (root / _LIBRARY).unlink(missing_ok=True)
            self.app.display_warning(
                f"penstock is installed without its native kernels: {problem} "
                "Everything works, but frames are resized and decoded tens of times slower."
            )
            return
        build_data["artifacts"].append(str(_LIBRARY))
        if version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"


def build(root: Path, *extra_flags: str, output: Path | None = None) -> str:
    """Compile the kernels of the checkout at ``root``; returns "" or what went wrong.

    Args:
        root: The checkout.
        extra_flags: Further flags of the compiler.
        output: The library to write; by default the one that the package loads.
    """
    if sys.platform == "win32":
        return "they are not built on Windows."
    compiler = _compiler()
    if not compiler:
        return "no C compiler was found (CC, cc, gcc, clang)."
    library = output or root / _LIBRARY
    sources = sorted(str(path) for path in (root / _SOURCES).glob("*.c"))
    # A process may have the library mapped: the new one takes its name when it is whole.
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".kernels-") as folder:
        built = Path(folder, library.name)
        command = [*compiler, *_FLAGS, *extra_flags, *sources, "-o", str(built)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError as error:
            return f"{compiler[0]} does not start: {error}."
        if done.returncode:
            return f"{shlex.join(command)} failed:\n{done.stderr.strip()}\n"
        built.replace(library)
    return ""


def _compiler() -> list[str]:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), [])
