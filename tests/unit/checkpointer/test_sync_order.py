"""What reaches the disk in which order, as the kernel sees it: strace records the system calls."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TRACED = "fsync,fdatasync,rename,renameat,renameat2,pwrite64,write,openat,unlink,unlinkat,mkdir"

SCRIPT = """
import io, os, sys
from pathlib import Path
from penstock import container
from penstock.checkpoints import UploadRequest
from penstock_checkpointer.store import Store

def say(what):
    os.write(1, what.encode())

file = io.BytesIO()
written = container.write({"text": "x" * 100_000}, file, compress="none")
data = file.getvalue()
store = Store(Path(sys.argv[1]) / "new" / "store")
request = UploadRequest(
    run="arm", step=7, digest=written.digest, raw_size_bytes=written.raw_size_bytes,
    fencing_token=0, tags=(), metrics={},
)
upload = store.begin_upload(request)
say("begun")
store.append(upload.upload_id, 0, data[:50_000])
store.append(upload.upload_id, 50_000, data[50_000:])
store.sync(upload.upload_id)
say("acknowledged")
store.commit(upload.upload_id)
say("committed")
store.delete("arm", 7)
say("deleted")
"""

PART, CONTENT, NOTE = "upload.part", f"{7:019d}.pstk", f"{7:019d}.json"
NOTE_PART, WAL = f".{NOTE}.part", "catalog.sqlite-wal"


@dataclass(frozen=True)
class Call:
    """A system call that succeeded: its name, and the files it is about, without folders."""

    name: str
    files: tuple[str, ...]


class Record:
    """Calls in the order in which they returned."""

    def __init__(self, text):
        self.calls = []
        begun = {}
        for line in text.splitlines():
            process, _, rest = line.partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                begun[process] = rest.removesuffix("<unfinished ...>")
                continue
            resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
            if resumed:
                rest = begun.pop(process) + resumed[1]
            self._take(rest)

    def _take(self, text):
        match = re.match(r"(\w+)\((.*)\)\s+= (\d+)", text)
        if match is None:
            return
        name, arguments = match[1], match[2]
        if name == "write" and arguments.startswith("1<"):
            self.calls.append(Call("say", (re.search(r'"(\w+)"', arguments)[1],)))
            return
        if name in ("fsync", "fdatasync", "pwrite64", "write"):
            paths = [re.match(r"\d+<(.*?)>", arguments)[1]]
        else:
            paths = re.findall(r'"(.*?)"', arguments)
        files = tuple(re.sub(r"^[0-9a-f]{32}\.part$", PART, Path(p).name) for p in paths)
        if name == "openat" and "O_CREAT" not in arguments:
            return
        self.calls.append(Call(name, files))

    def first(self, names, *files, after=-1):
        """Place of the first such call after a place."""
        for place, call in enumerate(self.calls):
            if place > after and call.name in names and call.files == files:
                return place
        raise AssertionError(f"no {names} of {files} after {after}: {self.calls[after:]}")

    def last(self, names, *files):
        return max(
            place
            for place, call in enumerate(self.calls)
            if call.name in names and call.files == files
        )

    def none(self, names, *files, between):
        start, end = between
        for call in self.calls[start + 1 : end]:
            assert not (call.name in names and call.files == files), call


SYNC, RENAME = ("fsync", "fdatasync"), ("rename", "renameat", "renameat2")
WRITE, UNLINK, SAY = ("pwrite64", "write"), ("unlink", "unlinkat"), ("say",)


@pytest.fixture(scope="module")
def strace():
    """The tracer, installed where that is allowed, and able to trace here."""
    if shutil.which("strace") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "strace"]):
            subprocess.run(
                ["apt-get", "-qq", *command], env=environment, check=False, capture_output=True
            )
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed, and apt-get or root to install it are missing")
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"strace may not trace here: {tried.stderr.decode()[-200:]}")
    return "strace"


@pytest.fixture(scope="module")
def record(strace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    log = folder / "record"
    command = [sys.executable, "-c", SCRIPT, str(folder / "disk")]
    (folder / "disk").mkdir()
    done = subprocess.run(
        [strace, "-f", "-y", "-s", "64", "-e", f"trace={TRACED}", "-o", str(log), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Record(log.read_text())


def test_received_bytes_are_synced_with_their_name_before_they_are_acknowledged(record):
    begun = record.first(SAY, "begun")
    made = record.first(("openat",), PART)
    assert made < record.first(SYNC, "staging", after=made) < begun
    acknowledged = record.first(SAY, "acknowledged")
    written = record.last(WRITE, PART)
    assert begun < written < record.first(SYNC, PART, after=written) < acknowledged


def test_content_note_directory_and_catalogue_are_synced_in_this_order_before_the_answer(record):
    acknowledged, committed = record.first(SAY, "acknowledged"), record.first(SAY, "committed")
    renamed = record.first(RENAME, PART, CONTENT)
    # The content, before it gets its name.
    content = record.first(SYNC, PART, after=acknowledged)
    assert content < renamed
    record.none(WRITE, PART, between=(content, committed))
    # The note, before it gets its own, which is before the content's.
    note_written = record.last(WRITE, NOTE_PART)
    note_renamed = record.first(RENAME, NOTE_PART, NOTE)
    note_synced = record.first(SYNC, NOTE_PART, after=note_written)
    assert note_written < note_synced < note_renamed < renamed
    # The names, then the row, then the answer.
    directory = record.first(SYNC, "arm", after=renamed)
    row = record.first(WRITE, WAL, after=directory)
    assert directory < row < record.first(SYNC, WAL, after=row) < committed
    # The last thing before the answer that is written is synced.
    last_row = max(p for p in range(committed) if record.calls[p] == Call("pwrite64", (WAL,)))
    assert record.first(SYNC, WAL, after=last_row) < committed


def test_directories_that_are_new_are_synced_into_their_parents(record):
    for name, parent in (
        ("new", "disk"),
        ("store", "new"),
        ("runs", "store"),
        ("staging", "store"),
        ("arm", "runs"),
    ):
        made = record.first(("mkdir",), name)
        synced = record.first(SYNC, parent, after=made)
        assert synced < record.first(RENAME, PART, CONTENT)
    made = record.first(("mkdir",), "arm")
    first_inside = record.first(("openat",), NOTE_PART)
    assert made < record.first(SYNC, "runs", after=made) < first_inside


def test_deletion_removes_content_then_note_syncs_and_only_then_forgets(record):
    committed, deleted = record.first(SAY, "committed"), record.first(SAY, "deleted")
    content = record.first(UNLINK, CONTENT, after=committed)
    note = record.first(UNLINK, NOTE, after=committed)
    directory = record.first(SYNC, "arm", after=note)
    row = record.first(WRITE, WAL, after=directory)
    synced = record.first(SYNC, WAL, after=row)
    assert content < note < directory < row < synced < deleted
    record.none(WRITE, WAL, between=(committed, directory))
