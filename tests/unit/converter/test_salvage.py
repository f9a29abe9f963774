"""What is left of recordings that were cut off or damaged is read, and the loss is told."""

import random
import re
import resource
import shutil
import sqlite3
from contextlib import suppress

import numpy as np
import pytest
from bag_recording import BAG_FORMATS, START_NS, Message, robot_messages, write_bag
from bag_shapes import (
    all_messages,
    killed_ros1,
    serialized,
    write_compressed,
    write_mcap,
    write_ros1,
)
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.recordings.bag import open_bag

from penstock.errors import DataFault

MESSAGES = robot_messages(12)
LONG = robot_messages(120)
MIB = 1 << 20


def read(path, *, salvage=True):
    """All messages and all warnings; each is decoded, which must not fail unless its bytes do."""
    with open_bag(path, salvage=salvage) as bag:
        for topic in bag.topics:
            bag.use(topic)
        found = all_messages(bag, bag.topics)
        scanned = bag.scan(bag.topics)
        assert sum(len(times.receive_ns) for times in scanned.values()) == len(found)
        return found, bag.warnings


def expected(messages, *, ros1=False):
    return [(m.topic, m.receive_ns, serialized(m, ros1=ros1)) for m in messages]


def beginning(found, messages, *, ros1=False):
    """How many of the messages are there, from the first on and without a gap."""
    known = set(expected(messages, ros1=ros1))
    kept = {tuple(each) for each in found}
    assert len(kept) == len(found)
    assert kept <= known
    last = max(each.receive_ns for each in found)
    assert {each for each in known if each[1] < last} <= kept
    return len(kept)


def counted(warning):
    """Messages kept and messages in all, as the warning tells."""
    kept, total = re.match(r"salvaged: (\d+) of (?:about )?(\d+) messages of", warning).groups()
    return int(kept), int(total)


def parts(messages, count):
    return [messages[at : at + count] for at in range(0, len(messages), count)]


def cut(path, share):
    """Leave only the first part of a file, or of the storage file of a folder."""
    file = path if path.is_file() else next(f for f in path.iterdir() if f.suffix != ".yaml")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    return path


def truncatable(folder, kind):
    if kind == "ros1":
        return write_ros1(folder / "b.bag", LONG)
    if kind == "ros1 lz4":
        return write_ros1(folder / "b.bag", LONG, "lz4")
    if kind == "db3":
        return write_bag(folder / "b", LONG, "db3")
    compression = {"mcap": "", "mcap lz4": "lz4", "mcap zstd": "zstd"}[kind]
    return write_mcap(folder / "b.mcap", parts(LONG, 10), compression)


TRUNCATABLE = ("ros1", "ros1 lz4", "mcap", "mcap lz4", "mcap zstd", "db3")


@pytest.mark.parametrize("kind", TRUNCATABLE)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_what_comes_before_the_cut_is_there(tmp_path, kind, share):
    path = cut(truncatable(tmp_path, kind), share)
    with pytest.raises(DataFault, match=r"rosbag\.salvage=true"):
        read(path, salvage=False)
    found, (warning,) = read(path)
    kept = beginning(found, LONG, ros1=kind.startswith("ros1"))
    # What stands before and after the messages is why it is not exactly the share of the file.
    assert kept >= (share - 0.2) * len(LONG)
    told, total = counted(warning)
    assert told == kept <= total
    assert re.search(r"the last [\d.]+ MB of [\d.]+ MB are unreadable|its end is missing", warning)


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_a_chunk_that_is_cut_gives_its_beginning(tmp_path, compression):
    """All is in one chunk, of several blocks that do not compress."""
    rng = np.random.default_rng(0)
    messages = [
        Message(START_NS + n, "/x", "std_msgs/msg/Float64MultiArray", {"data": rng.random(1000)})
        for n in range(200)
    ]
    path = write_mcap(tmp_path / "b.mcap", [messages], compression)
    assert path.stat().st_size > 1_400_000
    found, (warning,) = read(cut(path, 0.5))
    assert [tuple(each) for each in found] == expected(messages)[: len(found)]
    assert len(found) > 75
    assert re.search(r"the last 0\.\d+ MB of 0\.\d+ MB are unreadable", warning)


def test_a_cut_between_two_chunks_loses_no_message(tmp_path):
    path = write_mcap(tmp_path / "b.mcap", parts(MESSAGES, 10), "zstd")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x0f\x04\0\0\0\0\0\0\0")])
    found, (warning,) = read(path)
    assert [tuple(each) for each in found] == expected(MESSAGES)
    assert counted(warning) == (len(MESSAGES), len(MESSAGES))
    assert "its end is missing" in warning


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
@pytest.mark.parametrize("open_from", [None, 40], ids=["between chunks", "inside a chunk"])
def test_what_a_killed_ros1_recorder_leaves_is_all_there(tmp_path, compression, open_from):
    path = killed_ros1(tmp_path / "b.bag.active", MESSAGES[:60], compression, open_from)
    found, (warning,) = read(path)
    assert beginning(found, MESSAGES[:60], ros1=True) == 60
    assert counted(warning)[0] == 60
    # A second opening gives the same.
    assert read(path)[0] == found


def test_a_damaged_chunk_is_left_out_and_counted(tmp_path):
    pieces = parts(MESSAGES, 10)
    path = write_mcap(tmp_path / "b.mcap", pieces, "zstd")
    data = bytearray(path.read_bytes())
    at = [m.start() for m in re.finditer(rb"\x28\xb5\x2f\xfd", data)][3]
    data[at + 200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataFault) as caught:
        read(path, salvage=False)
    assert caught.value.reason == "BAG_DAMAGED"
    found, (warning,) = read(path)
    rest = [message for number, piece in enumerate(pieces) for message in piece if number != 3]
    assert [tuple(each) for each in found] == expected(rest)
    assert counted(warning) == (len(rest), len(MESSAGES))
    assert "1 damaged chunks (" in warning


def test_a_record_that_cannot_be_told_costs_no_more_than_its_chunk(tmp_path):
    """The index says where the next chunk begins."""
    pieces = parts(MESSAGES, 10)
    path = write_mcap(tmp_path / "b.mcap", pieces, "lz4")
    data = bytearray(path.read_bytes())
    at = [m.start() for m in re.finditer(rb"\x04\x22\x4d\x18", data)][2]
    data[at - 59 : at - 40] = b"\xff" * 19
    path.write_bytes(data)
    found, (warning,) = read(path)
    rest = [message for number, piece in enumerate(pieces) for message in piece if number != 2]
    assert [tuple(each) for each in found] == expected(rest)
    assert "1 damaged stretches (" in warning


def test_a_damaged_page_of_a_table_costs_its_rows(tmp_path):
    messages = [
        Message(START_NS + n * 10**6, "/x", "std_msgs/msg/Float32", {"data": float(n)})
        for n in range(3000)
    ]
    path = next(write_bag(tmp_path / "b", messages, "db3").glob("*.db3"))
    data = bytearray(path.read_bytes())
    with sqlite3.connect(path) as database:
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    at = data.index(serialized(messages[1500])) // page_bytes * page_bytes
    data[at : at + page_bytes] = b"\xff" * page_bytes
    path.write_bytes(data)
    found, (warning,) = read(path)
    lost = 3000 - len(found)
    assert 10 < lost < 200
    assert f"{lost} rows are damaged" in warning
    assert counted(warning) == (3000 - lost, 3000)


@pytest.mark.parametrize("missing", [1, 100, 4095, 4097])
def test_a_page_of_a_table_that_is_cut_is_never_filled_up(tmp_path, missing):
    """SQLite reads zeros there and says nothing; the images fill many pages to their ends."""
    rng = np.random.default_rng(0)
    messages = [
        Message(START_NS + n, "/x", "std_msgs/msg/Float64MultiArray", {"data": rng.random(3000)})
        for n in range(20)
    ]
    path = next(write_bag(tmp_path / "b", messages, "db3").glob("*.db3"))
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataFault, match=r"cut off|malformed") as caught:
        read(path, salvage=False)
    assert caught.value.reason == "BAG_UNREADABLE"
    found, (warning,) = read(path)
    assert beginning(found, messages) >= 18
    assert "are unreadable" in warning


@pytest.mark.parametrize("bag_format", ["mcap", "db3"])
def test_one_cut_file_of_a_split_recording_spoils_no_other(tmp_path, bag_format):
    folder = tmp_path / "robot"
    folder.mkdir()
    pieces = parts(LONG, 400)
    for number, piece in enumerate(pieces):
        written = write_bag(tmp_path / f"part_{number}", piece, bag_format)
        shutil.copy(next(written.glob(f"*.{bag_format}")), folder / f"robot_{number}.{bag_format}")
    cut(folder / f"robot_1.{bag_format}", 0.6)
    with pytest.raises(DataFault, match=rf"robot_1\.{bag_format}: cannot be opened"):
        read(folder, salvage=False)
    found, (warning,) = read(folder)
    there = {tuple(each) for each in found}
    for number, piece in enumerate(pieces):
        assert (set(expected(piece)) <= there) == (number != 1)
    assert f"messages of robot_1.{bag_format}" in warning


def test_messages_that_were_compressed_one_by_one_are_salvaged_without_metadata(tmp_path):
    path = cut(write_compressed(tmp_path / "b", MESSAGES, "message", "mcap"), 0.7)
    (path / "metadata.yaml").unlink()
    found, _ = read(path)
    assert beginning(found, MESSAGES) > 0.3 * len(MESSAGES)


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
@pytest.mark.parametrize("kept", [0, 5, 90])
def test_a_file_that_holds_nothing_is_refused_with_its_reason(tmp_path, bag_format, kept):
    path = write_bag(tmp_path / "b.bag", MESSAGES, bag_format)
    file = path if path.is_file() else next(f for f in path.iterdir() if f.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataFault) as caught:
        read(path)
    assert caught.value.reason == "BAG_UNREADABLE"
    assert "Nothing" in caught.value.message


def test_a_cut_recording_converts_with_a_warning(tmp_path, make_mapping):
    path = cut(write_bag(tmp_path / "b", robot_messages(40)), 0.5)
    refused = run_job(Job((path,), make_mapping(), tmp_path / "refused"))
    assert [each.reason for each in refused.bags] == ["BAG_UNREADABLE"]
    mapping = make_mapping("rosbag.salvage=true", "rosbag.gap=drop")
    (outcome,) = run_job(Job((path,), mapping, tmp_path / "out")).bags
    assert outcome.state == "converted", outcome
    assert 10 < outcome.frames < 40
    assert any(warning.startswith("salvaged: ") for warning in outcome.warnings)


def damaged(data, rng):
    """A file that is cut, has flipped bytes, or both, or a stretch of zeros."""
    data = bytearray(data)
    what = rng.randrange(4)
    if what in (0, 2):
        data = data[: rng.randrange(len(data) + 1)]
    if what in (1, 2) and data:
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    if what == 3:
        at = rng.randrange(len(data))
        length = min(rng.choice([8, 512, 4096]), len(data) - at)
        data[at : at + length] = bytes(length)
    return bytes(data)


@pytest.mark.parametrize(
    "kind", ["ros1", "ros1 lz4", "killed", "mcap", "mcap zstd", "mcap lz4", "db3"]
)
@pytest.mark.parametrize("salvage", [False, True], ids=["", "salvage"])
def test_damage_of_any_kind_is_a_fault_of_the_data_and_takes_no_memory(tmp_path, kind, salvage):
    """Seeded: 150 damaged files of each kind."""
    rng = random.Random(f"{kind} {salvage}")  # noqa: S311 - damage is no secret
    messages = robot_messages(3)
    if kind == "killed":
        path = killed_ros1(tmp_path / "b.bag.active", messages, "lz4", 15)
    elif kind.startswith("ros1"):
        path = write_ros1(tmp_path / "b.bag", messages, kind.partition(" ")[2] or "none")
    elif kind == "db3":
        path = next(write_bag(tmp_path / "b", messages, "db3").glob("*.db3"))
    else:
        path = write_mcap(tmp_path / "b.mcap", parts(messages, 8), kind.partition(" ")[2])
    data = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"read": 0, "refused": 0}
    reasons: set[str] = set()
    for _ in range(150):
        path.write_bytes(damaged(data, rng))
        try:
            outcomes["read"] += look_at_all(path, salvage=salvage)
        except DataFault as error:
            reasons.add(error.reason)
            outcomes["refused"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 200 * MIB
    assert reasons <= {"BAG_UNREADABLE", "BAG_DAMAGED"}
    assert outcomes["refused"] > 3
    # Nothing but salvage reads what has no index.
    assert (outcomes["read"] > 3) == (salvage or kind != "killed")


def look_at_all(path, *, salvage):
    """Do all that one can do with a recording; only the data may be at fault."""
    with open_bag(path, salvage=salvage) as bag:
        usable = []
        for topic in bag.topics:
            with suppress(DataFault):
                bag.use(topic)
                usable.append(topic)
        scanned = bag.scan(usable)
        with suppress(DataFault):
            bag.scan(usable, [topic for topic in usable if bag.has_header(topic)])
        count = 0
        for message in all_messages(bag, usable):
            count += 1
            with suppress(DataFault):
                bag.decode(message.topic, message.data)
        assert count == sum(len(times.receive_ns) for times in scanned.values())
        assert all((np.diff(times.receive_ns) >= 0).all() for times in scanned.values())
        return count > 0
