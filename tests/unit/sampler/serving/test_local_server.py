from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock_sampler.serving import local_server
from penstock_sampler.serving.local_path import SocketPlace, socket_place
from penstock_sampler.serving.local_server import LocalServer
from penstock_sampler.serving.status import Activity
from penstock_sampler.serving.versions import ServedVersions
from prometheus_client import REGISTRY

from penstock.batch import FrameSpec
from penstock.errors import NotFound, Unavailable

REPLICA = 2**63 + 5
WANTED = {"replica_id": str(REPLICA), "file_id": "a.hdf5", "height": 4, "width": 6}


class Cached:
    """A backend with one cached file, for images of 4x6."""

    def __init__(self, frames: Path) -> None:
        self.frames = frames

    def info(self) -> Any:
        return SimpleNamespace(version="1", files=(), refused=(), dropped_rows=0)

    def cached_frames(self, file_id: str, spec: FrameSpec) -> int | None:
        if file_id != "a.hdf5":
            raise NotFound(f"no file {file_id!r}")
        return os.open(self.frames, os.O_RDONLY) if spec == FrameSpec(4, 6) else None

    def close(self) -> None:
        pass


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    path = tmp_path / "a.frames"
    path.write_bytes(b"cached frames")
    return path


@contextlib.contextmanager
def serving(frames: Path, path: Path, **options: Any) -> Iterator[LocalServer]:
    served = ServedVersions.of(Cached(frames))  # pyright: ignore[reportArgumentType]
    place = SocketPlace(path, private=False)
    with LocalServer(place, served, Activity(replica_id=REPLICA), **options) as server:
        yield server


@pytest.fixture
def server(frames: Path, tmp_path: Path) -> Iterator[LocalServer]:
    with serving(frames, tmp_path / "s.sock") as server:
        yield server


@contextlib.contextmanager
def connected(server: LocalServer) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(server.path)
        yield client


def ask(client: socket.socket, request: Any) -> tuple[dict[str, Any], list[int]]:
    client.send(request if isinstance(request, bytes) else json.dumps(request).encode())
    answer, descriptors, _, _ = socket.recv_fds(client, 4096, 4)
    return json.loads(answer), descriptors


def push_without_end(client: socket.socket) -> None:
    request = json.dumps(WANTED).encode()
    for _ in range(100_000):
        client.send(request)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@tenacity.retry(wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_delay(10))
def until(condition: Callable[[], bool]) -> None:
    assert condition()


@tenacity.retry(wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_delay(10))
def until_closed_by_server(client: socket.socket) -> None:
    try:
        assert client.recv(4096) == b""
    except ConnectionResetError:
        return


def test_a_client_gets_a_read_only_descriptor_of_the_cached_frames(server: LocalServer) -> None:
    name = "penstock_sampler_local_descriptors_total"
    before = REGISTRY.get_sample_value(name) or 0
    with connected(server) as client:
        for _ in range(3):
            answer, (descriptor,) = ask(client, WANTED)
            assert answer == {"ok": True}
            assert os.pread(descriptor, 100, 0) == b"cached frames"
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(descriptor, b"x")
            os.close(descriptor)
    until(lambda: REGISTRY.get_sample_value(name) == before + 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"height": 8, "width": 8}, "NOT_CACHED"),
        ({"file_id": "../etc/passwd"}, "NO_SUCH_FILE"),
        ({"replica_id": "7"}, "OTHER_REPLICA"),
        ({"replica_id": REPLICA}, "BAD_REQUEST"),
        ({"height": -1}, "BAD_REQUEST"),
        ({"height": 5000}, "BAD_REQUEST"),
        ({"height": True}, "BAD_REQUEST"),
        ({"file_id": None}, "BAD_REQUEST"),
        ({"file_id": "x" * 5000}, "BAD_REQUEST"),
    ],
)
def test_what_is_not_handed_out_has_a_reason(
    server: LocalServer, changes: dict[str, Any], reason: str
) -> None:
    with connected(server) as client:
        answer, descriptors = ask(client, WANTED | changes)
        assert (answer["ok"], answer["reason"], descriptors) == (False, reason, [])
        assert answer["message"]
        assert ask(client, WANTED)[0] == {"ok": True}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(garbage=st.binary(min_size=1, max_size=6000) | st.just(b"[" * 4000))
def test_garbage_is_answered_and_harms_nobody(server: LocalServer, garbage: bytes) -> None:
    with connected(server) as client:
        assert ask(client, garbage)[0]["reason"] == "BAD_REQUEST"
        answer, (descriptor,) = ask(client, WANTED)
        os.close(descriptor)
        assert answer == {"ok": True}


def test_no_descriptor_stays_behind(server: LocalServer) -> None:
    with connected(server) as client:
        ask(client, WANTED | {"file_id": "b"})
        before = open_descriptors()
        for _ in range(20):
            _, (descriptor,) = ask(client, WANTED)
            os.close(descriptor)
            ask(client, WANTED | {"height": 9})
        # Whatever else this process opens and closes goes on meanwhile.
        until(lambda: open_descriptors() <= before)


def test_descriptors_that_a_client_sends_are_not_kept(server: LocalServer, frames: Path) -> None:
    with connected(server) as client, frames.open("rb") as file:
        ask(client, WANTED | {"file_id": "b"})
        before = open_descriptors()
        socket.send_fds(client, [json.dumps(WANTED | {"file_id": "b"}).encode()], [file.fileno()])
        assert json.loads(client.recv(4096))["reason"] == "NO_SUCH_FILE"
        # Whatever else this process opens and closes goes on meanwhile.
        until(lambda: open_descriptors() <= before)


def test_a_client_that_never_receives_is_dropped(server: LocalServer) -> None:
    with connected(server) as deaf:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            push_without_end(deaf)
        with connected(server) as client:
            assert ask(client, WANTED)[0] == {"ok": True}


def test_a_silent_connection_is_closed(frames: Path, tmp_path: Path) -> None:
    with serving(frames, tmp_path / "s.sock", idle_s=0.05) as server, connected(server) as client:
        until_closed_by_server(client)


def test_connections_are_bounded(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "MAX_CONNECTIONS", 2)
    with serving(frames, tmp_path / "s.sock") as server, contextlib.ExitStack() as stack:
        served = [stack.enter_context(connected(server)) for _ in range(2)]
        for client in served:
            assert ask(client, WANTED)[0] == {"ok": True}
        until_closed_by_server(stack.enter_context(connected(server)))
        assert ask(served[0], WANTED)[0] == {"ok": True}


def test_other_users_are_refused_unless_told_otherwise(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stranger(socket.socket):
        def getsockopt(self, level: int, name: int, *size: Any) -> Any:
            if name == socket.SO_PEERCRED:
                return local_server._CREDENTIALS.pack(1, os.geteuid() + 1, 0)
            return super().getsockopt(level, name, *size)

        def accept(self) -> tuple[socket.socket, Any]:
            accepted, address = super().accept()
            return Stranger(fileno=accepted.detach()), address

    monkeypatch.setattr("penstock_sampler.serving.local_path.socket.socket", Stranger)
    with serving(frames, tmp_path / "s.sock") as server:
        assert stat.S_IMODE(Path(server.path).stat().st_mode) == 0o600
        with connected(server) as client:
            until_closed_by_server(client)
    with serving(frames, tmp_path / "s.sock", any_user=True) as server:
        assert stat.S_IMODE(Path(server.path).stat().st_mode) == 0o666
        with connected(server) as client:
            assert ask(client, WANTED)[0] == {"ok": True}


def test_the_socket_is_gone_when_the_server_is(frames: Path, tmp_path: Path) -> None:
    with serving(frames, tmp_path / "s.sock") as server, connected(server) as client:
        ask(client, WANTED)
        server.stop()
        assert list(tmp_path.glob("s.*")) == []
        until_closed_by_server(client)


def test_sockets_of_killed_servers_are_replaced_and_those_alive_stay(
    frames: Path, tmp_path: Path
) -> None:
    for name in ("s.sock", "other.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
            killed.bind(str(tmp_path / name))
    with serving(frames, tmp_path / "s.sock") as server:
        assert not (tmp_path / "other.sock").exists()
        with pytest.raises(Unavailable, match=r"s\.sock is in use by another server"):
            SocketPlace(tmp_path / "s.sock", private=False).listen(world=False)
        with connected(server) as client:
            assert ask(client, WANTED)[0] == {"ok": True}


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("mine")
    with pytest.raises(Unavailable, match="is no socket"):
        SocketPlace(tmp_path / "s.sock", private=False).listen(world=False)
    assert (tmp_path / "s.sock").read_text() == "mine"


def test_a_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    place = SocketPlace(tmp_path / ("x" * 100) / "s.sock", private=False)
    with pytest.raises(Unavailable, match="too long"):
        place.listen(world=False)


def test_the_own_folder_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = socket_place("auto", 1)
    assert place == SocketPlace(tmp_path / "penstock" / "0000000000000001.sock", private=True)
    (tmp_path / "penstock").mkdir(mode=0o777)
    place.listen(world=False).close()
    assert stat.S_IMODE((tmp_path / "penstock").stat().st_mode) == 0o700


def test_a_folder_that_someone_else_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "penstock").symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = socket_place("auto", 1)
    assert place is not None
    with pytest.raises(Unavailable, match="belongs to another user"):
        place.listen(world=False)


@pytest.mark.parametrize(
    ("setting", "path"),
    [("none", None), ("/run/p", "/run/p/00000000000000ff.sock"), ("/run/a.sock", "/run/a.sock")],
)
def test_the_setting_names_a_folder_or_a_path(setting: str, path: str | None) -> None:
    place = socket_place(setting, 255)
    assert (str(place.path) if place else None) == path
