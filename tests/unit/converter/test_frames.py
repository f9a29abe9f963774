"""Frames of an episode: what is kept, what is left out and why."""

import numpy as np
import pytest
from penstock_converter.frames.choice import choose_frames
from penstock_converter.frames.stream import frames_in_flight
from penstock_converter.frames.timeline import Timeline, TopicTimes
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.recordings.order import SetBack, find_set_back

from penstock.errors import DataFault

S = 1_000_000_000
TEXT = """
task: t
fps: 10
features:
  observation.image: {topic: /camera}
  observation.state: {topic: /state, tolerance_s: 0.02}
  action: {topic: /action, tolerance_s: 0.02}
outputs:
  hdf5: {joint: observation.state, actions: action, rewards: action, terminals: action,
         images: {global_image: observation.image}}
"""
KINDS = {
    "/camera": "sensor_msgs/msg/Image",
    "/state": "sensor_msgs/msg/JointState",
    "/action": "std_msgs/msg/Float32",
}


def timeline(**seconds):
    topics = {
        f"/{name}": TopicTimes(
            np.round(np.array(times) * S).astype(np.int64), np.empty(0, "q"), 1000 * len(times)
        )
        for name, times in seconds.items()
    }
    return Timeline(topics, KINDS)


def ticks(start, stop):
    return [tick / 10 for tick in range(start, stop)]


def choose_all(times, *overrides):
    return choose_frames(times, parse_mapping(TEXT, overrides), "test.bag")


def choose(times, *overrides):
    (frames,) = choose_all(times, *overrides).episodes
    return frames


def test_frames_without_their_messages_at_either_end_are_dropped_and_counted():
    choice = choose_all(timeline(camera=ticks(0, 10), state=ticks(2, 10), action=ticks(1, 7)))
    (frames,) = choice.episodes
    # Rows 2 to 6; frame 7 has what HDF5 observes, and no action.
    assert frames.count == 5
    assert frames.times_ns.tolist() == [round(t * S) for t in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    assert choice.dropped == {
        "no observation.state within 0.02 s": 2,
        "no action within 0.02 s": 3,
    }
    assert frames.tracks["action"].first.tolist() == [1, 2, 3, 4, 5, -1]
    assert frames.tracks["observation.state"].first.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_frame_after_the_last_row_counts_only_with_all_that_is_observed():
    frames = choose(timeline(camera=ticks(0, 10), state=ticks(0, 7), action=ticks(0, 7)))
    assert (frames.count, frames.observations) == (7, 7)


def test_a_gap_inside_fails_and_says_where_what_and_how_far():
    state = [t for t in ticks(0, 10) if t != 0.4]
    with pytest.raises(DataFault, match=r"frame 4 at 0\.400 s has no obs") as caught:
        choose(timeline(camera=ticks(0, 10), state=state, action=ticks(0, 10)))
    assert caught.value.reason == "GAP"
    assert "0.100 s away" in caught.value.message
    assert "rosbag.gap: drop" in caught.value.message


def test_a_gap_that_may_be_dropped_leaves_a_cut():
    state = [t for t in ticks(0, 10) if t not in (0.4, 0.5)]
    times = timeline(camera=ticks(0, 10), state=state, action=ticks(0, 10))
    choice = choose_all(times, "rosbag.gap=drop")
    (frames,) = choice.episodes
    assert frames.count == 8
    assert np.flatnonzero(frames.cut_after).tolist() == [3]
    assert choice.dropped == {"no observation.state within 0.02 s": 2}


def test_a_gap_that_is_held_repeats_what_was_before_and_is_counted():
    times = {"camera": ticks(0, 10), "state": ticks(0, 10), "action": ticks(1, 9)}
    for name, missing in (("state", 4), ("state", 5), ("action", 5)):
        times[name] = [second for second in times[name] if second != missing / 10]
    choice = choose_all(timeline(**times), "rosbag.gap=hold")
    (frames,) = choice.episodes
    # The ends are no gaps: there is nothing to repeat before the first frame.
    assert frames.count == 8
    assert choice.dropped == {"no action within 0.02 s": 2}
    assert frames.tracks["observation.state"].first[:8].tolist() == [1, 2, 3, 3, 3, 4, 5, 6]
    assert frames.tracks["action"].first[:8].tolist() == [0, 1, 2, 3, 3, 4, 5, 6]
    assert frames.tracks["observation.image"].first[:8].tolist() == list(range(1, 9))
    assert not frames.cut_after.any()
    assert [warning.split(" frames")[0] for warning in choice.warnings] == ["2", "1"]
    assert "no observation.state within 0.02 s (topic /state)" in choice.warnings[0]
    with pytest.raises(DataFault, match="or hold to repeat"):
        choose(timeline(**times))


def test_ends_are_cut_before_the_stride():
    times = timeline(camera=ticks(0, 30), state=ticks(0, 30), action=ticks(0, 30))
    cuts = ("rosbag.drop_first=4", "rosbag.drop_last=5", "rosbag.stride=3", "fps=3")
    choice = choose_all(times, *cuts)
    (frames,) = choice.episodes
    assert frames.times_ns.tolist() == [round(t / 10 * S) for t in range(4, 25, 3)]
    assert (choice.dropped["drop_first"], choice.dropped["drop_last"]) == (4, 5)


def test_an_offset_moves_the_moment_that_a_feature_stands_for():
    times = timeline(camera=ticks(0, 5), state=ticks(0, 5), action=ticks(0, 5))
    frames = choose(times, "features.action.offset_s=0.2")
    assert frames.tracks["action"].first[: frames.count].tolist() == [2, 3, 4]


def test_no_complete_frame_says_how_far_each_feature_is():
    times = timeline(camera=ticks(0, 5), state=ticks(100, 105), action=ticks(0, 5))
    with pytest.raises(DataFault, match=r"observation.state fits 0 .*nearest 9.600 s"):
        choose(times)


def test_nothing_left_after_cutting_the_ends_is_said():
    times = timeline(camera=ticks(0, 5), state=ticks(0, 5), action=ticks(0, 5))
    with pytest.raises(DataFault, match="5 messages, drop_first 3 and drop_last 3 leave none"):
        choose(times, "rosbag.drop_first=3", "rosbag.drop_last=3")


def test_a_rate_that_is_not_the_datasets_is_pointed_out():
    times = timeline(camera=ticks(0, 9), state=ticks(0, 9), action=ticks(0, 9))
    assert choose_all(times).warnings == ()
    (warning,) = choose_all(times, "fps=30").warnings
    assert "10.00 Hz" in warning
    assert "30 fps" in warning


@pytest.mark.parametrize(
    ("chunk_size", "memory_bytes", "wanted"),
    [
        ("7", 1 << 40, 7),
        ("null", 1 << 20, 100),
        # Three topics of messages of 1000 bytes; a sixteenth of the memory.
        ("auto", 16 * 3000 * 50, 50),
        ("auto", 1, 1),
        ("auto", 1 << 40, 256),
    ],
)
def test_frames_in_flight_are_those_asked_for_or_those_that_fit(chunk_size, memory_bytes, wanted):
    times = timeline(camera=ticks(0, 100), state=ticks(0, 100), action=ticks(0, 100))
    mapping = parse_mapping(TEXT, [f"rosbag.chunk_size={chunk_size}"])
    (frames,) = choose_frames(times, mapping, "bag").episodes
    assert frames_in_flight(times, frames, mapping, memory_bytes) == wanted


def test_a_pause_of_the_main_feature_is_a_gap():
    camera = ticks(0, 10) + ticks(30, 40)
    times = timeline(camera=camera, state=ticks(0, 40), action=ticks(0, 40))
    with pytest.raises(DataFault, match=r"pauses for 2\.100 s after frame 9") as caught:
        choose_all(times)
    assert caught.value.reason == "GAP"
    assert choose(times, "rosbag.pause_s=2.2").count == 20
    dropped = choose(times, "rosbag.gap=drop")
    assert np.flatnonzero(dropped.cut_after).tolist() == [9]
    held = choose_all(times, "rosbag.gap=hold")
    assert held.frames == 40
    (frames,) = held.episodes
    images = frames.tracks["observation.image"].first.tolist()
    assert images == [*range(10), *[9] * 20, *range(10, 20)]
    assert frames.tracks["observation.state"].first.tolist() == list(range(40))
    assert "pauses for 2.100 s" in held.warnings[0]


def test_a_gap_may_begin_another_episode():
    camera = ticks(0, 10) + ticks(30, 40)
    state = [t for t in ticks(0, 40) if t != 0.4]
    times = timeline(camera=camera, state=state, action=ticks(0, 40))
    choice = choose_all(times, "rosbag.gap=split")
    assert [(frames.count, frames.observations) for frames in choice.episodes] == [
        (4, 4),
        (5, 5),
        (10, 10),
    ]
    assert choice.dropped == {"no observation.state within 0.02 s": 1}
    assert not any(frames.cut_after.any() for frames in choice.episodes)
    assert choice.episodes[2].tracks["observation.image"].first[0] == 10


def test_long_recordings_may_be_split_and_keep_the_observation_after_each_part():
    times = timeline(camera=ticks(0, 10), state=ticks(0, 10), action=ticks(0, 10))
    choice = choose_all(times, "rosbag.split_episodes=4")
    assert [(frames.count, frames.observations) for frames in choice.episodes] == [
        (4, 5),
        (4, 5),
        (2, 2),
    ]
    first = [frames.tracks["observation.image"].first.tolist() for frames in choice.episodes]
    assert first == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9]]
    assert choice.episodes[0].tracks["action"].first.tolist() == [0, 1, 2, 3, -1]


def test_a_camera_that_stops_early_is_pointed_out():
    times = timeline(camera=ticks(0, 10), state=ticks(0, 40), action=ticks(0, 40))
    (warning,) = choose_all(times).warnings
    assert warning == "observation.image (topic /camera) stops 3.00 s before the recording ends"


def stamped(receive_s, header_s):
    """A timeline of one camera, joints and commands at its times, all by header."""
    header = np.round(np.array(header_s) * S).astype(np.int64)
    receive = np.round(np.array(receive_s) * S).astype(np.int64)
    steady = TopicTimes(receive, receive, 1000)
    moved = TopicTimes(receive, header, 1000)
    topics = {"/camera": steady, "/state": moved, "/action": steady}
    return Timeline(topics, KINDS)


HEADER = ("rosbag.time=header", "rosbag.gap=drop")


def test_stamps_out_of_order_by_less_than_half_a_frame_are_put_in_order():
    receive = ticks(0, 10)
    header = [*receive[:4], 0.451, 0.402, *receive[6:]]
    # Put in order, message 5 comes before message 4.
    choice = choose_all(
        stamped(receive, header), *HEADER, "features[observation.state].tolerance_s=0.05"
    )
    (frames,) = choice.episodes
    assert frames.tracks["observation.state"].first[:6].tolist() == [0, 1, 2, 3, 5, 4]
    (warning,) = choice.warnings
    assert warning == (
        "1 messages of topic /state come later than others with newer header stamps, by 0.049 s at "
        "most, and are put in order"
    )


@pytest.mark.parametrize(
    ("number", "stamp_s", "told"),
    [
        (5, 0.349, r"/state jump at message 5, back by 0\.051 s"),
        (0, 7.0, r"/state jump at message 1, back by 6\.900 s"),
        (9, 1.41, r"/state jump at message 9, ahead by 0\.510 s more"),
    ],
)
def test_stamps_that_jump_are_refused(number, stamp_s, told):
    header = ticks(0, 10)
    header[number] = stamp_s
    with pytest.raises(DataFault, match=told) as caught:
        choose_all(stamped(ticks(0, 10), header), *HEADER)
    assert caught.value.reason == "CLOCK_JUMP"
    assert caught.value.metadata["topic"] == "/state"


def test_a_late_message_is_no_jump():
    # The network stands still for two seconds, then all arrives at once.
    receive = [*ticks(0, 10), *[3.0] * 20, *ticks(31, 40)]
    header = [tick / 10 for tick in range(len(receive))]
    choice = choose_all(stamped(receive, header), *HEADER, "rosbag.gap=drop")
    assert not any("jump" in warning for warning in choice.warnings)


def test_stamps_count_in_the_order_of_receipt():
    # Two storage files that overlap in time follow each other.
    receive = [*ticks(0, 10)[::2], *ticks(0, 10)[1::2]]
    assert choose_all(stamped(receive, receive), *HEADER).warnings == ()


def test_clocks_that_are_apart_are_told_unless_an_offset_makes_up_for_it():
    receive = ticks(0, 30)
    behind = [second - 0.8 for second in receive]
    times = stamped(receive, behind)
    (warning,) = choose_all(times, *HEADER).warnings
    assert warning == (
        "observation.state goes by the header stamp of topic /state, observation.image by its "
        "header stamp: these clocks are 0.800 s apart, give both features the same one (time: "
        "receive)"
    )
    offset = "features[observation.state].offset_s=-0.8"
    choice = choose_all(times, *HEADER, offset)
    assert choice.warnings == ()
    assert choice.episodes[0].tracks["observation.state"].first.tolist() == list(range(30))


def test_messages_of_the_main_feature_at_one_time_are_one_frame():
    times = timeline(camera=[0.0, 0.1, 0.1, 0.1, 0.2], state=ticks(0, 3), action=ticks(0, 3))
    choice = choose_all(times)
    (frames,) = choice.episodes
    assert frames.tracks["observation.image"].first.tolist() == [0, 3, 4]
    assert choice.dropped == {"same time as another message of the main feature": 2}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([*ticks(0, 20), *ticks(12, 30)], SetBack("/t", 20, 0.7)),
        # Longer than what was recorded before: nothing is mixed, a pause is left.
        ([*ticks(100, 120), *ticks(0, 20)], None),
        # Parts in another order, and threads that overtake each other.
        ([*ticks(10, 20), *ticks(0, 10), *ticks(20, 30)], None),
        ([0.0, 0.4, 0.2, 0.6, 0.5, 1.0], None),
        # One message that was written late.
        ([*ticks(0, 10), 0.35, *ticks(10, 20)], None),
        # The second part was moved, the third is where the clock was set.
        ([*ticks(10, 20), *ticks(0, 10), *ticks(2, 9)], SetBack("/t", 20, 0.7)),
        ([], None),
    ],
)
def test_a_clock_that_was_set_back_shows_in_the_order_of_the_file(seconds, expected):
    times = np.round(np.array(seconds) * S).astype(np.int64)
    assert find_set_back("/t", [np.arange(5) * S, times]) == expected


def test_a_clock_that_leaps_by_days_does_not_fill_memory_with_repeated_frames():
    camera = ticks(0, 10) + [86_400 + t for t in ticks(0, 10)]
    times = timeline(camera=camera, state=ticks(0, 10), action=ticks(0, 10))
    with pytest.raises(DataFault, match="863991 frames, and at most 100000 are repeated") as caught:
        choose_all(times, "rosbag.gap=hold")
    assert caught.value.reason == "GAP"
    assert "rosbag.gap: split" in caught.value.message
