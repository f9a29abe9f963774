"""Times that come from an index are those of the messages, in the order in which they are read."""

import itertools
import os
import re
import shutil
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
from penstock_converter.recordings.bag import open_bag
from penstock_converter.recordings.discovery import find_bags
from penstock_converter.recordings.views import FileView
from rosbags import rosbag1, rosbag2

from penstock.errors import DataFault

MS = 1_000_000


def read_by_rosbags(path):
    """Times and bytes by topic, with all payloads read by the library."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    ros1 = path.suffix == ".bag"
    with (rosbag1.Reader if ros1 else rosbag2.Reader)(path) as reader:
        for connection, receive_ns, data in reader.messages():
            found.setdefault(connection.topic, []).append((receive_ns, bytes(data)))
    return found


def read_by_index(path, **options):
    """The same by index scan and numbers; reading in order must number messages alike."""
    with open_bag(path, **options) as bag:
        usable = []
        for topic in bag.topics:
            # Service events have definitions that no parser reads.
            with suppress(DataFault):
                bag.use(topic)
                usable.append(topic)
        scanned = bag.scan(usable)
        found = {}
        for topic in usable:
            times = scanned[topic].receive_ns.tolist()
            # Numbers in any order, and one twice: each message comes once, in order of receipt.
            picked = list(
                bag.pick({topic: [*reversed(range(len(times))), *([0] if times else [])]})
            )
            assert [each.number for each in picked] == list(range(len(times)))
            found[topic] = [(ns, each.data) for ns, each in zip(times, picked, strict=True)]
        read: dict[str, list[tuple[int, bytes]]] = {topic: [] for topic in usable}
        for message in all_messages(bag, usable):
            read[message.topic].append((message.receive_ns, message.data))
        assert read == found
        for topic, messages in found.items():
            size = sum(len(data) for _, data in messages)
            # Definitions stand between messages, and an index cannot tell them apart.
            room = 3000 * bag.files
            assert scanned[topic].size_bytes == pytest.approx(size, rel=0.1, abs=room)
        return {topic: messages for topic, messages in found.items() if messages}


def shuffled(messages, seed=3):
    """Messages out of order, some of them with equal times."""
    rng = np.random.default_rng(seed)
    moved = [m._replace(receive_ns=m.receive_ns // (20 * MS) * (20 * MS)) for m in messages]
    return [moved[at] for at in rng.permutation(len(moved))]


def parts(messages, count):
    return [messages[at : at + count] for at in range(0, len(messages), count)]


MESSAGES = robot_messages(6)
SHAPES = {
    "ros1": lambda folder: write_ros1(folder / "b.bag", MESSAGES),
    "ros1 bz2": lambda folder: write_ros1(folder / "b.bag", MESSAGES, "bz2"),
    "ros1 lz4": lambda folder: write_ros1(folder / "b.bag", MESSAGES, "lz4"),
    "ros1 unsorted": lambda folder: write_ros1(folder / "b.bag", shuffled(MESSAGES)),
    "ros1 unsorted lz4": lambda folder: write_ros1(folder / "b.bag", shuffled(MESSAGES), "lz4"),
    "mcap": lambda folder: write_mcap(folder / "b.mcap", parts(MESSAGES, 9)),
    "mcap lz4": lambda folder: write_mcap(folder / "b.mcap", parts(MESSAGES, 9), "lz4"),
    "mcap zstd": lambda folder: write_mcap(folder / "b.mcap", parts(MESSAGES, 9), "zstd"),
    "mcap without checksums": lambda folder: write_mcap(
        folder / "b.mcap", parts(MESSAGES, 9), crc=False
    ),
    "mcap overlapping": lambda folder: write_mcap(
        folder / "b.mcap", [MESSAGES[0::2], MESSAGES[1::2]], "zstd"
    ),
    "mcap unsorted": lambda folder: write_mcap(folder / "b.mcap", parts(shuffled(MESSAGES), 7)),
    "mcap without chunks": lambda folder: write_mcap(folder / "b.mcap", [MESSAGES], chunked=False),
    "mcap without summary": lambda folder: write_mcap(
        folder / "b.mcap", parts(MESSAGES, 9), "lz4", summary=False
    ),
    "db3": lambda folder: write_bag(folder / "b", MESSAGES, "db3"),
    "db3 unsorted": lambda folder: write_bag(folder / "b", shuffled(MESSAGES), "db3"),
    "mcap by message": lambda folder: write_compressed(folder / "b", MESSAGES, "message", "mcap"),
    "db3 by message": lambda folder: write_compressed(folder / "b", MESSAGES, "message", "db3"),
    "mcap by file": lambda folder: write_compressed(folder / "b", MESSAGES, "file", "mcap"),
    "mcap by chunk": lambda folder: write_compressed(folder / "b", MESSAGES, "storage", "mcap"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("salvage", [False, True], ids=["", "salvage"])
def test_index_holds_what_a_full_read_yields(tmp_path, shape, salvage):
    path = SHAPES[shape](tmp_path)
    expected = read_by_rosbags(path)
    assert sum(map(len, expected.values())) == len(MESSAGES)
    assert read_by_index(path, salvage=salvage) == expected
    with open_bag(path, salvage=salvage) as bag:
        assert bag.warnings == ()


@pytest.mark.real_data
@pytest.mark.parametrize("salvage", [False, True], ids=["", "salvage"])
def test_index_of_real_recordings_holds_what_a_full_read_yields(real_data, salvage):
    compared = 0
    for path in find_bags([str(real_data / "bags")]):
        if path.name == "empty-file.bag":
            continue
        indexed = read_by_index(path, salvage=salvage)
        full = read_by_rosbags(path)
        assert indexed == {topic: full[topic] for topic in indexed}
        assert indexed or path.name == "no-messages.bag"
        compared += sum(map(len, indexed.values()))
        with open_bag(path, salvage=salvage) as bag:
            assert bag.warnings == ()
    assert compared > 12_000


@pytest.mark.parametrize("bag_format", ["mcap", "db3"])
def test_files_of_a_split_recording_follow_each_other(tmp_path, bag_format):
    """Also where they overlap, and with more than ten of them."""
    folder = tmp_path / "robot"
    folder.mkdir()
    pieces = parts(MESSAGES, len(MESSAGES) // 11)
    assert len(pieces) > 10
    # The last message of each file is older than the first of the file before.
    pieces = [[*p, p[-1]._replace(receive_ns=p[0].receive_ns - 150 * MS)] for p in pieces]
    for number, piece in enumerate(pieces):
        written = write_bag(tmp_path / f"part_{number}", piece, bag_format)
        (file,) = written.glob(f"*.{bag_format}")
        shutil.copy(file, folder / f"robot_{number}.{bag_format}")
    found = read_by_index(folder)
    expected: dict[str, list[tuple[int, bytes]]] = {}
    for piece in pieces:
        for message in sorted(piece, key=lambda m: m.receive_ns):
            data = serialized(message)
            expected.setdefault(message.topic, []).append((message.receive_ns, data))
    assert found == expected


def test_chunks_of_one_file_at_a_time_are_kept(tmp_path):
    """Else a recording of many files would take memory for each of them."""
    folder = tmp_path / "robot"
    folder.mkdir()
    for number, piece in enumerate(parts(MESSAGES, 10)):
        write_mcap(folder / f"robot_{number}.mcap", parts(piece, 3), "zstd")
    with open_bag(folder) as bag:
        assert bag.files > 5
        most = 0
        everything = {t: range(len(each.receive_ns)) for t, each in bag.scan(bag.topics).items()}
        for _ in bag.pick(everything):
            most = max(most, sum(bool(storage._chunks) for storage in bag._reader._storages))
    assert most == 1


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
@pytest.mark.parametrize("salvage", [False, True], ids=["", "salvage"])
def test_links_and_odd_names_are_followed(tmp_path, bag_format, salvage):
    name = "b.bag" if bag_format == "ros1" else "b"
    path = write_bag(tmp_path / name, MESSAGES, bag_format)
    (tmp_path / "100% of it").mkdir()
    link = tmp_path / "100% of it" / name
    link.symlink_to(path)
    assert read_by_index(link, salvage=salvage) == read_by_rosbags(path)


def test_chunks_without_message_index_are_read_all_the_same(tmp_path):
    """rosbags passes over such chunks and says nothing."""
    pieces = parts(MESSAGES, 9)
    whole = write_mcap(tmp_path / "whole.mcap", pieces)
    bare = write_mcap(tmp_path / "bare.mcap", pieces, message_index=False)
    assert read_by_index(bare) == read_by_index(whole)


def test_unsorted_messages_without_an_index_are_read_in_order(tmp_path):
    """rosbags refuses to read them."""
    path = write_mcap(tmp_path / "b.mcap", [shuffled(MESSAGES)], chunked=False)
    for messages in read_by_index(path).values():
        times = [ns for ns, _ in messages]
        assert times == sorted(times)


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
@pytest.mark.parametrize("stretch", [3, 100_000])
def test_header_stamps_come_with_the_scan(tmp_path, monkeypatch, bag_format, stretch):
    monkeypatch.setattr("penstock_converter.recordings.reading._STRETCH", stretch)
    path = write_bag(tmp_path / "b.bag", MESSAGES, bag_format)
    with open_bag(path) as bag:
        topics = ["/joint_states", "/cam_left/compressed", "/reward"]
        for topic in topics:
            bag.use(topic)
        scanned = bag.scan(topics, topics[:2])
    for topic in topics[:2]:
        assert len(scanned[topic].receive_ns) > 6
        assert (scanned[topic].receive_ns - scanned[topic].header_ns == 3 * MS).all()
    assert not scanned["/reward"].header_ns.size


def test_header_stamps_of_compressed_messages_come_with_the_scan(tmp_path):
    path = write_compressed(tmp_path / "b", MESSAGES, "message", "mcap")
    with open_bag(path) as bag:
        bag.use("/cam_left/compressed")
        (times,) = bag.scan(["/cam_left/compressed"], ["/cam_left/compressed"]).values()
    assert (times.receive_ns - times.header_ns == 3 * MS).all()


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_a_scan_reads_no_payload_and_a_pick_no_other(tmp_path, monkeypatch, kind):
    """Of 40 large messages in uncompressed chunks, two are read."""
    large = np.zeros(500_000, np.float64)
    messages = [
        Message(START_NS + n * MS, "/large", "std_msgs/msg/Float64MultiArray", {"data": large})
        for n in range(40)
    ]
    if kind == "ros1":
        path = write_ros1(tmp_path / "b.bag", messages)
    else:
        path = write_mcap(tmp_path / "b.mcap", parts(messages, 2), crc=False)
    read_bytes = 0
    read = FileView._read

    def counting(view, offset, size_bytes):
        nonlocal read_bytes
        read_bytes += size_bytes
        return read(view, offset, size_bytes)

    monkeypatch.setattr(FileView, "_read", counting)
    with open_bag(path) as bag:
        bag.use("/large")
        (found,) = bag.scan(["/large"]).values()
        assert found.size_bytes == pytest.approx(40 * 4_000_000, rel=0.001)
        assert read_bytes < 300_000
        picked = list(bag.pick({"/large": [7, 30]}))
    assert [each.number for each in picked] == [7, 30]
    assert 8_000_000 < read_bytes < 8_600_000


def test_messages_of_two_recorders_are_read_from_one_bag(tmp_path):
    """They lay out the headers of messages in orders of their own."""
    path = write_ros1(tmp_path / "b.bag", MESSAGES)
    expected = read_by_rosbags(path)
    head = re.compile(rb"(\x09\0\0\0conn=.{4})(\x0d\0\0\0time=.{8})", re.DOTALL)
    turns = itertools.cycle([rb"\1\2", rb"\1\2", rb"\2\1"])
    data, count = head.subn(lambda found: found.expand(next(turns)), path.read_bytes())
    assert count == len(MESSAGES)
    path.write_bytes(data)
    assert read_by_index(path) == expected


def test_a_recording_that_changes_meanwhile_is_told_from_a_damaged_one(tmp_path):
    path = write_ros1(tmp_path / "b.bag", MESSAGES)
    with open_bag(path) as bag:
        bag.use("/reward")
        bag.scan(["/reward"])
        os.truncate(path, path.stat().st_size // 4)
        with pytest.raises(DataFault) as caught:
            list(bag.pick({"/reward": range(6)}))
    assert caught.value.reason == "BAG_CHANGED"


def test_an_index_that_does_not_fit_its_messages_is_damage(tmp_path):
    path = write_mcap(tmp_path / "b.mcap", [MESSAGES], crc=False)
    data = bytearray(path.read_bytes())
    at = data.index((MESSAGES[20].receive_ns).to_bytes(8, "little"))
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataFault) as caught:
        read_by_index(path)
    assert caught.value.reason == "BAG_DAMAGED"


def test_a_killed_ros1_recorder_is_refused_with_the_way_out(tmp_path):
    path = killed_ros1(tmp_path / "b.bag.active", MESSAGES)
    with pytest.raises(DataFault, match=r"rosbag\.salvage=true") as caught, open_bag(path):
        pass
    assert caught.value.reason == "BAG_UNREADABLE"
