"""The service over gRPC: jobs in processes of their own, names that stay inside its folders."""

import os
import shutil
import signal
import sys

import psutil
import pytest
import tenacity
from bag_recording import robot_messages, write_bag
from penstock_converter.service import ConverterService
from penstock_converter.serving.conversions import Conversions
from penstock_converter.serving.settings import ConverterSettings

from penstock.client.converter import open_converter
from penstock.client.health import check_health
from penstock.errors import AlreadyExists, InvalidInput, NotFound, PermissionDenied
from penstock.server import start
from penstock.targets import Target

patiently = tenacity.retry(wait=tenacity.wait_fixed(0.02), stop=tenacity.stop_after_delay(60))


@pytest.fixture
def folders(tmp_path, bag):
    """Input and output folder; the input holds one good and one empty recording."""
    inputs, outputs = tmp_path / "recordings", tmp_path / "data"
    inputs.mkdir()
    outputs.mkdir()
    shutil.copytree(bag, inputs / "good")
    (inputs / "empty.bag").touch()
    return inputs, outputs


@pytest.fixture
def client(folders):
    inputs, outputs = folders
    settings = ConverterSettings(port=0, input_root=inputs, output_root=outputs)
    conversions = Conversions(settings)
    with start("converter", settings, ConverterService(conversions).register) as server:
        with open_converter(server.target, retry_s=0) as opened:
            yield opened
        conversions.close()


def last(client, conversion):
    *_, ended = client.watch(conversion.conversion_id)
    return ended


@pytest.fixture
def long(folders):
    """Recordings that keep a worker busy until it is stopped."""
    inputs, _ = folders
    first = write_bag(inputs / "long_000", robot_messages(200))
    for number in range(1, 20):
        shutil.copytree(first, inputs / f"long_{number:03d}")
    return "long_*"


def worker():
    """The process of the running conversion, once it is there."""
    (found,) = [
        child
        for child in psutil.Process().children()
        if "penstock_converter.serving.worker" in child.cmdline()
    ]
    return found


def test_a_conversion_is_watched_to_its_end(client, folders, mapping_text):
    started = client.start(["good"], "made/reach", mapping_text)
    assert started.state in ("queued", "running")
    reports = list(client.watch(started.conversion_id))
    ended = reports[-1]
    assert ended.state == "succeeded"
    assert not any(report.ended for report in reports[:-1])
    assert (ended.frames_done, ended.frames_total) == (12, 12)
    assert ended.bags[0].bag == "good"
    assert ended.bags[0].dropped == {"no action within 0.05 s": 1}
    assert ended.peak_rss_bytes > 0
    assert (folders[1] / "made/reach/meta/info.json").exists()
    assert (folders[1] / "made/reach/hdf5/episode_000000.hdf5").exists()


def test_a_refused_recording_is_reported_beside_the_converted_ones(client, folders, mapping_text):
    ended = last(client, client.start(["*"], "reach", mapping_text))
    assert ended.state == "partly succeeded"
    states = {bag.bag: (bag.state, bag.reason) for bag in ended.bags}
    assert states == {"good": ("converted", ""), "empty.bag": ("refused", "BAG_UNREADABLE")}
    (error,) = [bag.error for bag in ended.bags if bag.error]
    assert str(folders[0]) not in error


def test_all_refused_is_a_failure(client, mapping_text):
    ended = last(client, client.start(["empty.bag"], "reach", mapping_text))
    assert ended.state == "failed"
    assert "empty.bag" in ended.error


def test_a_dataset_grows_and_says_how_many_episodes_each_recording_became(
    client, folders, mapping_text
):
    last(client, client.start(["good"], "reach", mapping_text))
    write_bag(folders[0] / "more", robot_messages(9))
    split = ["rosbag.split_episodes=5"]
    with pytest.raises(AlreadyExists, match="another mapping"):
        client.start(["more"], "reach", mapping_text, overrides=split, append=True)
    grown = last(client, client.start(["good", "more"], "reach", mapping_text, append=True))
    assert (grown.state, grown.frames_done) == ("succeeded", 21)
    assert [(bag.bag, bag.episodes) for bag in grown.bags] == [("good", 1), ("more", 1)]
    other = last(client, client.start(["good"], "split", mapping_text, overrides=split))
    assert [bag.episodes for bag in other.bags] == [3]


def test_a_conversion_that_was_cancelled_goes_on_where_it_was(client, folders, long, mapping_text):
    started = client.start(["long_00[0-3]"], "reach", mapping_text)
    staged = folders[1] / ".reach.partial/recordings"

    @patiently
    def wait_for_a_recording():
        assert list(staged.glob("*/staged.json"))

    wait_for_a_recording()
    client.cancel(started.conversion_id)
    assert last(client, started).state == "cancelled"
    kept = {path: path.stat().st_mtime_ns for path in staged.glob("*/staged.json")}
    assert kept
    again = client.start(["long_00[0-3]"], "reach", mapping_text)
    *_, ended = client.watch(again.conversion_id)
    assert ended.state == "succeeded"
    assert len(ended.bags) == 4
    assert not staged.exists()


def test_asking_again_gives_the_same_conversion(client, mapping_text):
    first = client.start(["good"], "reach", mapping_text)
    assert client.start(["good"], "reach", mapping_text).conversion_id == first.conversion_id
    last(client, first)
    again = client.start(["good"], "reach", mapping_text, overrides=["rosbag.chunk_size=3"])
    assert (again.conversion_id, again.state) == (first.conversion_id, "succeeded")
    assert [c.conversion_id for c in client.list()] == [first.conversion_id]


def test_an_output_that_was_made_differently_is_kept_unless_it_may_be_replaced(
    client, mapping_text
):
    last(client, client.start(["good"], "reach", mapping_text))
    with pytest.raises(AlreadyExists):
        client.start(["good"], "reach", mapping_text, overrides=["fps=11"])
    replaced = client.start(["good"], "reach", mapping_text, overrides=["fps=11"], overwrite=True)
    assert last(client, replaced).state == "succeeded"


@pytest.mark.parametrize("name", ["/etc", "../x", "a/../../x", "", "."])
def test_inputs_and_outputs_stay_inside_the_folders(client, mapping_text, name):
    with pytest.raises(InvalidInput):
        client.start(["good"], name, mapping_text)
    if name != ".":
        with pytest.raises(InvalidInput):
            client.start([name], "reach", mapping_text)


def test_links_do_not_lead_out(client, folders, mapping_text, tmp_path, bag):
    inputs, outputs = folders
    (inputs / "link").symlink_to(bag)
    (outputs / "link").symlink_to(tmp_path)
    (inputs / "half").mkdir()
    (inputs / "half/half_0.mcap").symlink_to(next(bag.glob("*.mcap")))
    for name in ("link", "half", "*"):
        with pytest.raises(PermissionDenied, match="out of the input folder"):
            client.start([name], "reach", mapping_text)
    with pytest.raises(PermissionDenied, match="out of the output folder"):
        client.start(["good"], "link/reach", mapping_text)


def test_mistakes_are_told_at_once(client, mapping_text):
    with pytest.raises(InvalidInput) as caught:
        client.start(["good"], "reach", mapping_text, overrides=["rosbag.chunks=3"])
    assert caught.value.field == "rosbag.chunks"
    with pytest.raises(NotFound, match=r"missing\*: no recording matches"):
        client.start(["missing*"], "reach", mapping_text)
    with pytest.raises(NotFound, match="not known"):
        list(client.watch("nonsense"))
    with pytest.raises(NotFound, match="not known"):
        client.cancel("nonsense")


def test_a_cancelled_conversion_publishes_nothing(client, folders, mapping_text, long):
    started = client.start([long], "reach", mapping_text)
    for report in client.watch(started.conversion_id):
        if report.frames_done:
            client.cancel(started.conversion_id)
    assert report.state == "cancelled"
    assert list(folders[1].iterdir()) == []


def test_a_queued_conversion_waits_and_can_be_cancelled(client, mapping_text, long):
    busy = client.start([long], "busy", mapping_text)
    waiting = client.start(["good"], "waiting", mapping_text)
    assert client.cancel(waiting.conversion_id).state == "cancelled"
    assert [c.output for c in client.list()] == ["waiting", "busy"]
    client.cancel(busy.conversion_id)
    assert last(client, busy).state == "cancelled"


def test_a_worker_that_is_killed_fails_its_conversion_and_not_the_service(
    client, folders, mapping_text, long
):
    started = client.start([long], "reach", mapping_text)
    for report in client.watch(started.conversion_id):
        if report.frames_done:
            break
    os.kill(worker().pid, signal.SIGKILL)
    ended = last(client, started)
    assert ended.state == "failed"
    assert "SIGKILL" in ended.error
    assert not (folders[1] / "reach").exists()
    again = client.start(["good"], "reach", mapping_text)
    assert last(client, again).state == "succeeded"
    assert sorted(path.name for path in folders[1].iterdir()) == ["reach"]


def test_a_worker_ends_when_its_service_is_killed(
    tmp_path, folders, mapping_text, long, unused_port
):
    inputs, outputs = folders
    log = (tmp_path / "service.log").open("wb")
    arguments = [
        "--input-root",
        str(inputs),
        "--output-root",
        str(outputs),
        "--port",
        str(unused_port),
    ]
    service = psutil.Popen(
        [sys.executable, "-m", "penstock.cli", "serve", "converter", *arguments],
        stdout=log,
        stderr=log,
    )
    log.close()
    target = f"grpc://127.0.0.1:{unused_port}"

    @patiently
    def wait_until_healthy():
        assert check_health(Target.parse(target)).serving

    wait_until_healthy()
    with open_converter(target, retry_s=0) as client:
        started = client.start([long], "reach", mapping_text)
        for report in client.watch(started.conversion_id):
            if report.frames_done:
                break
    (child,) = service.children()
    service.kill()
    service.wait()
    child.wait(timeout=60)
    assert list(outputs.iterdir()) == []
