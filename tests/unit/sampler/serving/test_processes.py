import os

import pytest
from penstock_sampler.serving.workers import serve_workers
from penstock_sampler.settings import SamplerSettings

from penstock.errors import InvalidInput, Unavailable
from penstock.server.port import hold_port


def settings(**given):
    return SamplerSettings(data="/nothing", **given)


@pytest.mark.parametrize(
    ("given", "count"), [("1", 1), ("12", 12), ("auto", len(os.sched_getaffinity(0)))]
)
def test_processes_are_counted_or_one_for_each_core_that_may_be_used(given, count):
    assert settings(processes=given).process_count == count


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "many"])
def test_other_numbers_of_processes_are_refused(given):
    with pytest.raises(InvalidInput, match="processes"):
        SamplerSettings.load(flags={"data": "/nothing", "processes": given})


def test_one_socket_for_several_processes_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"a\.sock is one socket, each of 2 .* name a folder"):
        serve_workers(settings(processes="2", local_socket=str(tmp_path / "a.sock")))


def test_port_that_is_held_already_is_named():
    with (
        hold_port("sampler", "127.0.0.1", 0) as held,
        pytest.raises(Unavailable, match=f"127.0.0.1:{held.port}: another server") as caught,
    ):
        serve_workers(settings(processes="2", port=held.port))
    assert caught.value.reason == "PORT_TAKEN"
