from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.checks.diagnosis import diagnose
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.files import FileIdentity, OpenFiles
from penstock_sampler.sources.frames import FrameReader, FrameRequest
from penstock_sampler.sources.images import ImageColumn
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
        "import sys, pathlib; from penstock_sampler.checks.diagnosis import diagnose; "
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


_FRAME = (20, 24, 3)
_IMAGE = (ImageColumn("left", "left", 20, 24, "hwc"),)


def _recorded(path: Path, **options: Any) -> FileIdentity:
    frames = np.random.default_rng(2).integers(0, 256, (40, *_FRAME), np.uint8)
    frames[:, :10] = 5
    with h5py.File(path, "w") as file:
        file.create_dataset("left", data=frames, **options)
    return FileIdentity.of(path)


def _read(reader: FrameReader, identity: FileIdentity, row: int) -> np.ndarray:
    out = np.empty((1, 1, *_FRAME), np.uint8)
    reader.read_block(identity, _IMAGE, row, row + 1, out)
    return out


@pytest.fixture
def reader() -> Iterator[FrameReader]:
    files = OpenFiles(4)
    found = FrameReader(files, io_threads=2)
    yield found
    found.close()
    files.close()


@pytest.mark.parametrize("options", [{}, {"chunks": (1, *_FRAME)}])
@pytest.mark.parametrize(
    ("change", "reason"),
    [("cut", "CHANGED"), ("written to", "CHANGED"), ("gone", "MISSING"), ("replaced", "CHANGED")],
)
@pytest.mark.parametrize("already_open", [False, True])
def test_a_file_that_changed_is_named(
    tmp_path: Path,
    reader: FrameReader,
    options: dict[str, Any],
    change: str,
    reason: str,
    *,
    already_open: bool,
) -> None:
    """Whether or not it is open; what is gone or replaced is served while it is open."""
    identity = _recorded(tmp_path / "a.h5", **options)
    other = _recorded(tmp_path / "b.h5", **options)
    if already_open:
        expected = _read(reader, identity, 20)
    if change == "cut":
        os.truncate(identity.path, identity.size_bytes // 2)
    elif change == "gone":
        identity.path.unlink()
    else:
        target = identity.path if change == "written to" else tmp_path / "new.h5"
        with target.open("r+b" if change == "written to" else "wb") as raw:
            raw.write(other.path.read_bytes()[:4096] + b"\0")
        os.utime(target, ns=(1, 1))
        if change == "replaced":
            target.rename(identity.path)
    if already_open and change in ("gone", "replaced"):
        np.testing.assert_array_equal(_read(reader, identity, 20), expected)
        for number in range(4):  # more files than may be open
            _read(reader, _recorded(tmp_path / f"{number}.h5"), 0)
    for _ in range(2):
        with pytest.raises(DataFault, match=r"a\.h5") as caught:
            _read(reader, identity, 20)
        assert caught.value.reason == reason
    _read(reader, other, 20)


def test_a_file_that_is_cut_without_a_trace_is_named(tmp_path: Path, reader: FrameReader) -> None:
    """Its size is still right when it is asked for, its bytes are not there: a short read."""
    identity = _recorded(tmp_path / "a.h5")
    _read(reader, identity, 0)
    preadv = os.preadv
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            os, "preadv", lambda number, into, offset: preadv(number, into, offset + (1 << 40))
        )
        with pytest.raises(DataFault, match=r"a\.h5: .*left: the file ends 1440 bytes too early"):
            _read(reader, identity, 7)
    _read(reader, identity, 7)


def test_a_damaged_chunk_is_named_and_its_neighbours_are_served(
    tmp_path: Path, reader: FrameReader
) -> None:
    identity = _recorded(tmp_path / "a.h5", chunks=(1, *_FRAME), compression="gzip")
    expected = _read(reader, identity, 8)
    with h5py.File(identity.path) as file:
        chunk = file["left"].id.get_chunk_info_by_coord((9, 0, 0, 0))
    with identity.path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"\xff" * 16)
    os.utime(identity.path, ns=(identity.modified_ns, identity.modified_ns))
    with pytest.raises(DataFault, match=r"a\.h5: .*left: a gzip chunk") as caught:
        _read(reader, identity, 9)
    assert caught.value.metadata == {"file": str(identity.path), "dataset": "left"}
    np.testing.assert_array_equal(_read(reader, identity, 8), expected)


def test_a_bad_file_leaves_no_thread_writing(tmp_path: Path, reader: FrameReader) -> None:
    """When the fault is raised, nothing writes to the batch any more."""
    good = [_recorded(tmp_path / f"{number}.h5") for number in range(12)]
    for identity in good:
        _read(reader, identity, 0)
    os.truncate(good[5].path, 100)
    out = np.empty((12, 1, 1, *_FRAME), np.uint8)
    rows, slot = np.array([3]), np.zeros(1, np.int64)
    requests = [
        FrameRequest(identity, _IMAGE, rows, np.stack([slot + place, slot], axis=1))
        for place, identity in enumerate(good)
    ]
    with pytest.raises(DataFault, match=r"5\.h5"):
        reader.read(requests, out)
    left = out.copy()
    _read(reader, good[0], 0)
    np.testing.assert_array_equal(out, left)
