"""Generates the Python code of the protos (``make proto``); ``--check`` compares instead.

``src/penstock/v1`` is committed, so that installing Penstock needs no compiler.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
OUT = ROOT.parent / "src"


def generate(out: Path) -> None:
    """Compile every proto below ``protos/penstock/v1`` into ``out/penstock/v1``."""
    sources = sorted(str(path) for path in ROOT.glob("penstock/v1/*.proto"))
    bundled = str(files("grpc_tools") / "_proto")
    arguments = [
        "protoc",
        f"--proto_path={ROOT}",
        f"--proto_path={bundled}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    (out / "penstock" / "v1" / "__init__.py").write_text(
        '"""Generated from protos/penstock/v1 by `make proto`: do not edit."""\n'
    )


def main() -> None:
    """Generate in place, or into a temporary folder to compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    if not parser.parse_args().check:
        generate(OUT)
        return
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        generate(fresh)
        names = sorted(path.name for path in (fresh / "penstock" / "v1").iterdir())
        committed = OUT / "penstock" / "v1"
        _, differing, missing = filecmp.cmpfiles(
            fresh / "penstock" / "v1", committed, names, shallow=False
        )
    stale = sorted({*differing, *missing})
    if stale:
        sys.exit(f"generated code is out of date: {', '.join(stale)}: run `make proto`")
    print(f"generated code is up to date ({len(names)} files)")


if __name__ == "__main__":
    main()
