"""Processes that index files ahead of the one that opens the dataset.

HDF5 and the interpreter work on one file at a time, so a thousand files take one core seconds while
the others wait. Helpers begin at the end of the list and leave entries in the folder of the index,
where the process that opens the dataset finds them when it gets there; whatever they leave out, it
does itself. Run as a module, this is a helper.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from penstock.cores import usable_cores
from penstock.errors import PenstockError
from penstock_sampler.index.entry_store import IndexStore
from penstock_sampler.index.record_store import scan_into_entry
from penstock_sampler.options import CameraNames, DataOptions

__all__ = ["Helpers", "help_index"]

log = logging.getLogger(__name__)

_LOOK_S = 0.04
"""Files are read so long before it is told how long the others will take."""
_WORTH_S = 0.8
"""What one helper should save; it needs a third of a second to start."""
_MOST_HELPERS = 15
_END_S = 10.0


class Helpers:
    """Starts helpers once it shows that the files take long; ends them with the last file.

    Args:
        entries: Where entries go; None, and nobody helps.
        options: How files are read.
        cores: That may be used, this process included; None for all of them.
    """

    def __init__(
        self, entries: IndexStore | None, options: DataOptions, cores: int | None = None
    ) -> None:
        self._entries, self._options = entries, options
        self._cores = usable_cores() if cores is None else cores
        self._running: list[subprocess.Popen[bytes]] = []

    def each(self, paths: Sequence[Path]) -> Generator[Path]:
        """The files, one by one, to be indexed before the next one is asked for."""
        begun_s, decided = time.monotonic(), self._entries is None or self._cores < 2  # noqa: PLR2004
        try:
            for number, path in enumerate(paths):
                passed_s = time.monotonic() - begun_s
                if number and not decided and passed_s > _LOOK_S:
                    decided = True
                    self._start(paths[number + 1 :], passed_s / number * (len(paths) - number))
                yield path
        finally:
            self._end()

    def _start(self, paths: Sequence[Path], left_s: float) -> None:
        entries = self._entries
        count = min(int(left_s / _WORTH_S), self._cores - 1, _MOST_HELPERS)
        if entries is None or not count or not sys.executable:
            return
        missing = entries.missing(reversed(paths))
        count = min(count, len(missing))
        log.info("%d files are not indexed yet: %d processes help", len(missing), count)
        for number in range(count):
            order = {
                "folder": str(entries.folder),
                "options": asdict(self._options),
                "paths": [str(path) for path in missing[number::count]],
            }
            with tempfile.TemporaryFile() as told:
                told.write(json.dumps(order).encode())
                told.seek(0)
                self._running.append(
                    subprocess.Popen(  # noqa: S603 - this module
                        [sys.executable, "-m", __name__],
                        stdin=told,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,  # what is wrong, this process finds and says
                        # Threads that it does not need would be started on the others' cores.
                        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                    )
                )

    def _end(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def help_index() -> None:
    """Be a helper: make the entries that standard input asks for, until told to end."""
    signal.signal(signal.SIGTERM, _end_now)
    parent = os.getppid()
    order = json.load(sys.stdin.buffer)
    told = order["options"]
    cameras = (CameraNames(each["name"], tuple(each["datasets"])) for each in told["cameras"])
    options = DataOptions(tuple(cameras), told["image_order"], tuple(told["weight_columns"]))
    entries = IndexStore(Path(order["folder"]), options)
    for path in map(Path, order["paths"]):
        if os.getppid() != parent:
            return
        if not entries.entry(path).exists():
            with contextlib.suppress(PenstockError, OSError):
                scan_into_entry(path, options, entries)


def _end_now(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)  # an unfinished entry is removed on the way


if __name__ == "__main__":
    help_index()
