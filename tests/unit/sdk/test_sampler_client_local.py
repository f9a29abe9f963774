"""Descriptors of cached frames: from the real server, and from ones that answer what they like."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tenacity
from descriptors import open_below
from penstock_sampler.serving.local_path import SocketPlace
from penstock_sampler.serving.local_server import LocalServer
from penstock_sampler.serving.status import Activity
from penstock_sampler.serving.versions import ServedVersions

from penstock.client.sampler import TransferStatistics, local
from penstock.client.sampler.local import LocalFrames
from penstock.client.sampler.replica import State
from penstock.codecs import encode_images
from penstock.dataset import Camera, DataFile
from penstock.errors import NotFound
from penstock.frame_file import FrameFile, FrameFileWriter, FrameHeader, FrameSource

REPLICA, HEIGHT, WIDTH, ROWS = 2**63 + 5, 4, 6, 5
CAMERAS = ("left", "wrist")


class Machine:
    """Cached files, a server of them, and a fleet with one replica on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        self.path = folder / "s.sock"
        self.files = tuple(
            DataFile(f"{number}.hdf5", 1, ROWS, digest=bytes([number] * 16)) for number in range(6)
        )
        for file in self.files:
            self.cache(file)
        self.transfer = TransferStatistics()
        self.replica = SimpleNamespace(
            name="grpc://here",
            state=State.LIVE,
            described=SimpleNamespace(local_socket=str(self.path), replica_id=REPLICA),
            holding=SimpleNamespace(version="1", first_local=np.zeros(len(self.files), np.int64)),
        )
        info = SimpleNamespace(
            files=self.files, camera_names=CAMERAS, cameras=[Camera(c, 9, 9) for c in CAMERAS]
        )
        self.fleet = SimpleNamespace(
            changed=threading.Condition(),
            replicas=[self.replica],
            union=SimpleNamespace(info=info),
        )

    def frames_path(self, file_id):
        return self.folder / f"{file_id}.frames"

    def cache(self, file, **changes):
        header = FrameHeader(
            FrameSource("x", 1, 1, file.digest.hex()), HEIGHT, WIDTH, CAMERAS, "raw", ROWS
        )
        header = dataclasses.replace(header, **changes)
        count = header.observations * len(header.cameras)
        data, sizes = encode_images("raw", np.zeros((count, *header.image_shape), np.uint8))
        with FrameFileWriter(self.frames_path(file.file_id), header) as writer:
            writer.append(data, sizes.reshape(header.observations, -1))
            writer.commit()

    # As the server's backend.
    def info(self):
        return SimpleNamespace(version="1", files=(), refused=(), dropped_rows=0)

    def cached_frames(self, file_id, spec):
        self.asked.append(file_id)
        if file_id not in [file.file_id for file in self.files]:
            raise NotFound(file_id)
        path = self.frames_path(file_id)
        there = path.exists() and (spec.height, spec.width) == (HEIGHT, WIDTH)
        return os.open(path, os.O_RDONLY) if there else None

    def close(self):
        pass

    @contextlib.contextmanager
    def serving(self, **options):
        served = ServedVersions.of(self)
        place = SocketPlace(self.path, private=False)
        with LocalServer(place, served, Activity(replica_id=REPLICA), **options) as server:
            yield server

    def local(self, **options):
        return LocalFrames(self.fleet, self.transfer, **options)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def server(machine):
    with machine.serving() as server:
        yield server


@pytest.fixture
def frames(machine):
    with contextlib.closing(machine.local()) as frames:
        yield frames


@pytest.fixture(autouse=True)
def no_descriptor_is_left(tmp_path):
    yield
    until(lambda: open_below(tmp_path) == 0)


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.01),
    stop=tenacity.stop_after_delay(10),
    reraise=True,
)
def until(condition):
    assert condition()


def test_a_descriptor_is_asked_for_once_and_kept(machine, server, frames):
    first = frames.find([2, 0], HEIGHT, WIDTH)
    assert {number: file.header.source.digest for number, file in first.items()} == {
        2: "02" * 16,
        0: "00" * 16,
    }
    assert frames.find([0, 2], HEIGHT, WIDTH) == first
    assert machine.asked == ["2.hdf5", "0.hdf5"]
    assert machine.transfer.local_faults == 0


def test_another_image_size_is_another_file(machine, server, frames):
    frames.find([0], HEIGHT, WIDTH)
    assert frames.find([0], 8, 8) == {}
    assert machine.asked == ["0.hdf5", "0.hdf5"]


def test_what_is_not_cached_is_asked_for_again_after_a_while(machine, server, frames, monkeypatch):
    machine.frames_path("1.hdf5").unlink()
    for _ in range(5):
        assert list(frames.find([0, 1], HEIGHT, WIDTH)) == [0]
    assert machine.asked == ["0.hdf5", "1.hdf5"]
    monkeypatch.setattr(local, "ASK_AGAIN_S", 0.02)
    machine.frames_path("2.hdf5").unlink()
    assert frames.find([2], HEIGHT, WIDTH) == {}
    machine.cache(machine.files[2])
    until(lambda: list(frames.find([2], HEIGHT, WIDTH)) == [2])
    assert machine.transfer.local_faults == 0


def test_a_file_that_the_replica_does_not_hold_is_not_asked_for(machine, server, frames):
    machine.replica.holding.first_local[3] = -1
    assert list(frames.find([2, 3], HEIGHT, WIDTH)) == [2]
    assert machine.asked == ["2.hdf5"]


def test_files_are_kept_although_their_replica_does_not_answer(machine, server, frames):
    frames.find([0], HEIGHT, WIDTH)
    machine.replica.state = State.FAILED
    assert list(frames.find([0, 1], HEIGHT, WIDTH)) == [0]
    assert machine.asked == ["0.hdf5"]


@pytest.mark.parametrize("change", ["replica", "version", "gone"])
def test_files_of_a_replica_that_serves_other_data_are_dropped(
    machine, server, frames, change, tmp_path
):
    frames.find([0, 1, 2], HEIGHT, WIDTH)
    assert frames.open_files == 3
    before = open_below(tmp_path)
    if change == "replica":
        machine.replica.described.replica_id += 1
    elif change == "version":
        machine.replica.holding.version = "2"
    else:
        machine.fleet.replicas.clear()
    found = list(frames.find([0], HEIGHT, WIDTH))
    assert found == ([0] if change == "version" else [])
    assert frames.open_files == len(found)
    assert open_below(tmp_path) < before


def test_the_socket_of_another_replica_hands_out_nothing_and_is_no_fault(machine, server, frames):
    machine.replica.described.replica_id = 7
    for _ in range(3):
        assert frames.find([0], HEIGHT, WIDTH) == {}
    assert machine.asked == []
    assert machine.transfer.local_faults == 0


@pytest.mark.parametrize("kind", ["nothing", "a file", "no path"])
def test_a_path_without_a_socket_is_another_machine_and_no_fault(machine, frames, kind):
    if kind == "a file":
        machine.path.write_text("no socket")
    if kind == "no path":
        machine.replica.described.local_socket = ""
    assert frames.find([0], HEIGHT, WIDTH) == {}
    assert machine.transfer.local_faults == 0


def test_two_addresses_of_one_replica_are_asked_once(machine, server, frames):
    machine.fleet.replicas.insert(0, SimpleNamespace(**vars(machine.replica)))
    machine.fleet.replicas[0].state = State.LEFT_OUT
    assert list(frames.find([0], HEIGHT, WIDTH)) == [0]
    assert machine.asked == ["0.hdf5"]


def test_what_one_replica_has_not_cached_another_may_have(machine, server, frames):
    (machine.folder / "other").mkdir()
    other = Machine(machine.folder / "other")
    machine.frames_path("0.hdf5").unlink()
    other.replica.described.replica_id = REPLICA
    with other.serving():
        machine.fleet.replicas.append(other.replica)
        assert list(frames.find([0, 1], HEIGHT, WIDTH)) == [0, 1]
    assert (machine.asked, other.asked) == (["0.hdf5", "1.hdf5"], ["0.hdf5"])


def test_open_files_are_bounded_and_the_least_recently_used_is_given_up(machine, server, tmp_path):
    before = open_below(tmp_path)
    with contextlib.closing(machine.local(most_open=3)) as frames:
        for number in (0, 1, 2, 0, 3):
            assert list(frames.find([number], HEIGHT, WIDTH)) == [number]
        assert frames.open_files == 3
        # The server, in this process too, has its own of the last one for a moment.
        until(lambda: open_below(tmp_path) <= before + 3)
        machine.asked.clear()
        frames.find([0, 2, 3], HEIGHT, WIDTH)
        assert machine.asked == []
        frames.find([1], HEIGHT, WIDTH)
        assert machine.asked == ["1.hdf5"]


def test_one_batch_holds_no_more_files_than_may_be_open(machine, server):
    with contextlib.closing(machine.local(most_open=2)) as frames:
        assert list(frames.find(range(6), HEIGHT, WIDTH)) == [0, 1]


def test_an_evicted_file_is_read_until_it_is_to_be_renewed(machine, server, frames, monkeypatch):
    (kept,) = frames.find([0], HEIGHT, WIDTH).values()
    machine.frames_path("0.hdf5").unlink()
    assert frames.find([0], HEIGHT, WIDTH) == {0: kept}
    monkeypatch.setattr(local, "RENEW_S", 0.0)
    assert frames.find([0], HEIGHT, WIDTH) == {}
    assert machine.asked == ["0.hdf5", "0.hdf5"]


def test_a_file_in_use_is_marked_as_used_so_that_it_stays(machine, server, frames, monkeypatch):
    monkeypatch.setattr(local, "RENEW_S", 0.0)
    frames.find([0], HEIGHT, WIDTH)
    os.utime(machine.frames_path("0.hdf5"), (1000, 1000))
    frames.find([0], HEIGHT, WIDTH)
    assert machine.frames_path("0.hdf5").stat().st_mtime > 1000
    assert machine.asked == ["0.hdf5"]


@pytest.mark.parametrize(
    "changes",
    [
        {"source": FrameSource("x", 1, 1, "ff" * 16)},
        {"cameras": ("wrist", "left")},
        {"cameras": ("left",)},
        {"height": WIDTH, "width": HEIGHT},
        {"observations": ROWS + 2},
        {"observations": ROWS - 1},
    ],
    ids=str,
)
def test_a_file_that_is_not_what_the_dataset_says_is_refused(
    machine, server, frames, caplog, changes
):
    machine.cache(machine.files[0], **changes)
    for _ in range(3):
        assert list(frames.find([0, 1], HEIGHT, WIDTH)) == [1]
    assert machine.transfer.local_faults == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("0.hdf5, cached by grpc://here cannot be used")


def test_one_observation_more_than_actions_is_what_some_recordings_have(machine, server, frames):
    machine.cache(machine.files[0], observations=ROWS + 1)
    assert list(frames.find([0], HEIGHT, WIDTH)) == [0]


def test_a_damaged_file_is_given_up_counted_said_once_and_asked_for_again(
    machine, server, frames, caplog, monkeypatch
):
    monkeypatch.setattr(local, "ASK_AGAIN_S", 0.0)
    for _ in range(2):
        (file,) = frames.find([0], HEIGHT, WIDTH).values()
        frames.damaged(file, NotFound("row 3 does not match its hash"))
    assert frames.open_files == 0
    assert machine.asked == ["0.hdf5", "0.hdf5"]
    assert machine.transfer.local_faults == 2
    assert len(caplog.records) == 1


def test_a_connection_that_the_server_closed_is_made_again(machine, frames):
    with machine.serving(idle_s=0.05) as server:
        frames.find([0], HEIGHT, WIDTH)
        until(lambda: not server._clients)
        assert list(frames.find([0, 1], HEIGHT, WIDTH)) == [0, 1]
    assert machine.transfer.local_faults == 0


def test_a_server_that_never_answers_is_waited_for_once(machine, frames):
    # Listening is enough to be connected to: so does a paused server look.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as paused:
        paused.bind(str(machine.path))
        paused.listen(1)
        for _ in range(3):
            assert frames.find(range(6), HEIGHT, WIDTH) == {}
        requests = received_requests(paused)
    assert requests == [
        {"replica_id": str(REPLICA), "file_id": "0.hdf5", "height": HEIGHT, "width": WIDTH}
    ]
    assert machine.transfer.local_faults == 1


def received_requests(listening):
    client, _ = listening.accept()
    with client:
        found = []
        while message := client.recv(4096):
            found.append(json.loads(message))
        return found


def test_a_server_that_has_ended_without_removing_its_socket_is_left_alone(machine, frames):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(str(machine.path))
    for _ in range(3):
        assert frames.find([0, 1], HEIGHT, WIDTH) == {}
    assert machine.transfer.local_faults == 1


@contextlib.contextmanager
def answering(machine, answer, descriptors):
    """A server that gives the same answer to whatever it is asked."""

    def run():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                with client:
                    while client.recv(4096):
                        socket.send_fds(client, [answer], descriptors)

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(machine.path))
        listening.listen(4)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"ok": true}',
        b'{"ok": 1}',
        b'{"ok": false}',
        b'{"ok": false, "reason": [1], "message": null}',
        b"[]",
        b"\xff\xfe",
        b"[" * 4000,
        b"x" * 5000,
    ],
    ids=lambda answer: str(answer[:40]),
)
@pytest.mark.parametrize("kind", ["none", "two", "a pipe", "no frames", "a folder"])
def test_answers_of_any_kind_harm_nobody(machine, frames, answer, kind):
    sent = {
        "none": lambda: (),
        "two": lambda: [os.open(machine.frames_path("0.hdf5"), os.O_RDONLY) for _ in range(2)],
        "a pipe": os.pipe,
        "no frames": lambda: [os.open(__file__, os.O_RDONLY)],
        "a folder": lambda: [os.open(machine.folder, os.O_RDONLY)],
    }
    with contextlib.ExitStack() as stack:
        opened = sent[kind]()
        for descriptor in opened:
            stack.callback(os.close, descriptor)
        descriptors = opened[:1] if kind == "a pipe" else opened
        with answering(machine, answer, descriptors):
            for _ in range(2):
                assert frames.find([0], HEIGHT, WIDTH) == {}
            frames.close()
    assert machine.transfer.local_faults == 1


def test_a_descriptor_is_not_handed_on_to_programs_that_are_started(machine, server, frames):
    (file,) = frames.find([0], HEIGHT, WIDTH).values()
    assert not os.get_inheritable(file.records.descriptor)


def test_threads_ask_for_a_file_once(machine, server, frames):
    found: list[FrameFile] = []

    def find():
        found.extend(frames.find([0, 1, 2], HEIGHT, WIDTH).values())

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    assert sorted(machine.asked) == ["0.hdf5", "1.hdf5", "2.hdf5"]


def test_nothing_is_asked_after_the_end(machine, server, frames):
    frames.find([0], HEIGHT, WIDTH)
    frames.close()
    assert frames.find([0, 1], HEIGHT, WIDTH) == {}
    assert machine.asked == ["0.hdf5"]
