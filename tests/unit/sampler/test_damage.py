from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.doctor import diagnose
from penstock_sampler.options import DataOptions
from unit.sampler.recording import arrays, write

from penstock.batch import Batch, FrameSpec
from penstock.errors import DataFault
from penstock.targets import Target

_FLIPS = 60
_HEADERS_BYTES = 6000


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_flipped_bytes_are_a_fault_of_the_file_or_no_matter(
    tmp_path: Path, compression: str | None
) -> None:
    """Whatever byte is wrong, the error is the file's own and names it; no other kind escapes."""
    options = {"chunks": True, "compression": compression} if compression else {}
    sound = write(tmp_path / "sound.h5", arrays(terminals=[4]), **options).read_bytes()
    path = tmp_path / "a.hdf5"
    rng = np.random.default_rng(11)
    served, served_after_all = 0, 0
    messages: list[str] = []
    for _ in range(_FLIPS):
        data = bytearray(sound)
        for place in rng.integers(0, min(len(data), _HEADERS_BYTES), 3):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        diagnosis = diagnose(path, DataOptions())
        try:
            backend = open_backend(Target.parse(str(path)))
        except DataFault as error:
            messages.append(error.message)
            served_after_all += diagnosis.served
            continue
        info = backend.info()
        batch = Batch.allocate(info.transitions, info, FrameSpec(6, 8))
        try:
            backend.read(np.arange(info.transitions), FrameSpec(6, 8), batch)
        except DataFault as error:
            messages.append(error.message)
        backend.close()
        served += 1
    assert served > 0
    assert messages
    assert all(str(path) in message for message in messages)
    assert served_after_all == 0


def test_a_file_that_is_being_written_is_refused_as_busy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays())
    diagnosis_code = (
        "import sys, pathlib; from penstock_sampler.doctor import diagnose; "
        "from penstock_sampler.options import DataOptions; "
        "print(diagnose(pathlib.Path(sys.argv[1]), DataOptions()).findings.faults[0].reason)"
    )
    with h5py.File(path, "a"):
        # Another process, because a lock does not hold against its own.
        found = subprocess.run(
            [sys.executable, "-c", diagnosis_code, str(path)],
            check=True,
            capture_output=True,
            text=True,
        )
    assert found.stdout.strip() == "BUSY"
