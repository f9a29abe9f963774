"""Where a target is: same process, same host, or beyond a network."""

import socket

import pytest

from penstock.rollouts.advising.place import place_of
from penstock.targets import Target


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("file:///rollouts", "process"),
        ("rollouts", "process"),
        ("file:///dev/shm/rollouts", "host"),
        ("file:///dev/shmem/rollouts", "process"),
        ("grpc://localhost:50053", "host"),
        ("grpc://127.0.0.1:50053", "host"),
        ("grpc://[::1]:50053", "host"),
        ("grpc://unix:/tmp/rollouts.sock", "host"),
        # A network for documentation, which nobody has.
        ("grpc://192.0.2.7:50053", "network"),
        ("grpc://localhost:50053,192.0.2.7:50053", "network"),
    ],
)
def test_place_follows_from_the_target(target, place):
    if "[::1]" in target and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    assert place_of(Target.parse(target)) == place


def test_own_name_is_this_host():
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        pytest.skip("this machine's name has no address")
    assert place_of(Target.parse(f"grpc://{socket.gethostname()}:1")) == "host"


def test_nowhere_is_this_process():
    assert place_of(None) == "process"


def test_name_that_nobody_knows_is_beyond_a_network(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert place_of(Target.parse("grpc://nowhere:50053")) == "network"
