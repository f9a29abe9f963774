"""Messages into pixels and vectors, and what is said when they do not fit."""

from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
from bag_recording import Message as RecordedMessage
from bag_recording import compressed, raw_image
from bag_shapes import serialized
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_converter.mapping.fieldpath import FieldPath
from penstock_converter.mapping.model import Feature
from penstock_converter.messages.images import decode_image, encode_png, image_source
from penstock_converter.messages.joint_state import JointStateReader
from penstock_converter.messages.numbers import NumberDecoder

from penstock.errors import DataFault

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 10, 3), np.uint8)
JOINTS = "sensor_msgs/msg/JointState"


def refused(message):
    with pytest.raises(DataFault) as caught:
        decode_image(Message(**message))
    return caught.value


def test_png_and_raw_images_come_out_to_the_bit():
    expected = PIXELS.tolist()
    assert decode_image(Message(**compressed(PIXELS, ".png"))).tolist() == expected
    assert decode_image(Message(**raw_image(PIXELS, "rgb8"))).tolist() == expected
    flipped = np.ascontiguousarray(PIXELS[..., ::-1])
    assert decode_image(Message(**raw_image(flipped, "bgr8"))).tolist() == expected


def test_grey_images_become_three_equal_channels():
    grey = np.ascontiguousarray(PIXELS[..., 0])
    decoded = decode_image(Message(**raw_image(grey, "mono8")))
    assert decoded.tolist() == np.repeat(grey[..., None], 3, axis=2).tolist()


def test_bytes_that_pad_the_rows_are_no_pixels():
    decoded = decode_image(Message(**raw_image(PIXELS, "rgb8", padding=5)))
    assert decoded.tolist() == PIXELS.tolist()


def test_jpeg_is_what_a_viewer_shows():
    smooth = np.full((16, 16, 3), (200, 100, 30), np.uint8)
    decoded = decode_image(Message(**compressed(smooth)))
    assert np.abs(decoded.astype(int) - smooth).max() <= 3


def test_each_jpeg_has_the_size_that_its_own_header_says():
    sizes = [(6, 10), (6, 10), (10, 6), (6, 12), (6, 10)]
    found = [image_source(Message(**compressed(np.zeros((*size, 3), np.uint8)))) for size in sizes]
    assert [(file.height, file.width) for file in found] == sizes


def test_a_file_passes_through_and_a_raw_image_becomes_a_png():
    fields = compressed(PIXELS)
    source = image_source(Message(**fields))
    assert source is not None
    assert (source.data, source.extension) == (fields["data"].tobytes(), "jpg")
    assert image_source(Message(**raw_image(PIXELS, "rgb8"))) is None
    png = np.frombuffer(encode_png(PIXELS).data, np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1].tolist() == PIXELS.tolist()


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_truncated_file_is_refused_not_filled_with_grey(extension):
    big = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    fields = compressed(big, extension)
    half = {**fields, "data": fields["data"][: len(fields["data"]) // 2]}
    assert refused(half).reason == "IMAGE_BROKEN"


def test_a_header_that_claims_a_giant_is_refused_before_it_is_decoded():
    data = bytearray(compressed(PIXELS, ".png")["data"].tobytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    assert refused({"format": "png", "data": np.frombuffer(data, np.uint8)}).reason == "IMAGE_SIZE"


def test_png_that_is_too_short_for_its_pixels_is_refused_before_it_is_decoded():
    done, zeros = cv2.imencode(".png", np.zeros((2000, 2000), np.uint8))
    assert done
    assert len(zeros) < 2000 * 2000 / 200
    assert decode_image(Message(format="png", data=zeros.reshape(-1))).shape == (2000, 2000, 3)
    data = bytearray(compressed(PIXELS, ".png")["data"].tobytes())
    data[16:24] = (4000).to_bytes(4, "big") * 2
    error = refused({"format": "png", "data": np.frombuffer(data, np.uint8)})
    assert (error.reason, "4000x4000" in error.message) == ("IMAGE_BROKEN", True)


def test_png_of_two_levels_is_stretched_to_8_bits():
    flat = np.zeros((16, 16), np.uint8)
    flat[:, 8:] = 255
    done, data = cv2.imencode(".png", flat, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert done
    assert data.reshape(-1)[24] == 1
    decoded = decode_image(Message(format="png", data=data.reshape(-1)))
    assert decoded.tolist() == np.repeat(flat[..., None], 3, axis=2).tolist()


def test_depth_is_refused_not_squeezed_into_8_bits():
    done, data = cv2.imencode(".png", np.full((4, 4), 1000, np.uint16))
    assert done
    error = refused({"format": "16UC1; png", "data": data.reshape(-1)})
    assert "16 bits" in error.message


def test_what_is_no_image_is_refused_with_its_first_bytes():
    error = refused({"format": "jpeg", "data": np.frombuffer(b"GIF89a", np.uint8)})
    assert error.reason == "IMAGE_FORMAT"
    assert "47 49 46" in error.message
    error = refused(raw_image(PIXELS, "yuv422"))
    assert (error.reason, "yuv422" in error.message) == ("IMAGE_ENCODING", True)
    short = raw_image(PIXELS, "rgb8") | {"data": np.zeros(7, np.uint8)}
    assert refused(short).reason == "IMAGE_SIZE"


def test_paths_reach_into_messages():
    message = Message(pose=Message(x=3.0), q=[1, 2, 3, 4], points=[Message(v=[5, 6])])
    assert FieldPath.parse("pose.x").of(message) == 3.0
    assert FieldPath.parse("q[1:3]").of(message) == [2, 3]
    assert FieldPath.parse("points[0].v[-1]").of(message) == 6
    with pytest.raises(DataFault, match="'y'"):
        FieldPath.parse("pose.y").of(message)
    with pytest.raises(DataFault, match="out of range"):
        FieldPath.parse("q[9]").of(message)


def decoder(kind=JOINTS, **feature):
    return NumberDecoder("f", Feature(topic="/t", **feature), kind)


def joints(names, position):
    return Message(name=list(names), position=np.array(position), velocity=np.zeros(len(names)))


def test_joints_are_found_by_name_whatever_their_order():
    read = decoder(names=("b", "a"))
    assert read(joints("abc", [1.0, 2.0, 3.0])).tolist() == [2.0, 1.0]
    assert read(joints("cab", [3.0, 1.0, 2.0])).tolist() == [2.0, 1.0]
    with pytest.raises(DataFault, match=r"no joint b, a in a message with c"):
        read(joints("c", [1.0]))


def test_joints_without_names_must_keep_their_order():
    read = decoder()
    assert read(joints("ab", [1.0, 2.0])).tolist() == [1.0, 2.0]
    assert read.labels == ["a", "b"]
    with pytest.raises(DataFault, match="order of joints changes") as caught:
        read(joints("ba", [2.0, 1.0]))
    assert caught.value.reason == "JOINT_ORDER"


def test_single_numbers_are_vectors_of_one():
    assert decoder("std_msgs/msg/Bool")(Message(data=True)).tolist() == [1.0]
    assert decoder("x/msg/Cmd", field="cmd")(Message(cmd=0.5)).tolist() == [0.5]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "NOT_NUMBERS"),
        ([[1, 2], [3, 4]], "NOT_NUMBERS"),
        ([1.0, float("nan")], "NOT_FINITE"),
        ([], "EMPTY_FIELD"),
        (np.zeros(100_000), "TOO_WIDE"),
    ],
)
def test_what_is_no_vector_of_finite_numbers_is_refused(value, reason):
    with pytest.raises(DataFault) as caught:
        decoder("x/msg/X")(Message(data=value))
    assert caught.value.reason == reason


def test_names_are_for_joint_states_only():
    with pytest.raises(DataFault, match="names select joints"):
        decoder("std_msgs/msg/Float64MultiArray", names=("a",))


def joint_states(names, rows, *, ros1):
    """Serialised messages, one for each row of numbers, each with a stamp of its own."""
    return [
        serialized(
            RecordedMessage(
                0,
                "/joints",
                JOINTS,
                {
                    "name": names,
                    "position": row,
                    "velocity": -row,
                    "effort": np.zeros(0),
                },
                1_700_000_000_000_000_000 + 10_000_001 * number,
            ),
            ros1=ros1,
        )
        for number, row in enumerate(rows)
    ]


def same(found, each):
    """Whether what was read together is what each message says."""
    return all(
        found.name == one.name
        and all(
            np.array_equal(array[row], value, equal_nan=True)
            for array, value in zip(found[1:], one[1:], strict=True)
        )
        for row, one in enumerate(each)
    )


@pytest.mark.parametrize("ros1", [True, False])
@given(count=st.integers(1, 9), width=st.integers(0, 5), seed=st.integers(0, 9))
def test_joint_states_read_together_are_those_read_one_by_one(ros1, count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    messages = joint_states([f"j{n}" for n in range(width)], rows, ros1=ros1)
    reader = JointStateReader(ros1=ros1)
    found = reader.read_alike(messages)
    assert [array.shape for array in found[1:]] == [(count, width), (count, width), (count, 0)]
    np.testing.assert_array_equal(found.position, rows)
    assert same(found, [reader.read(message) for message in messages])


@pytest.mark.parametrize("ros1", [True, False])
@settings(max_examples=300)
@given(place=st.integers(0, 200), value=st.integers(0, 255), which=st.integers(0, 2))
def test_a_joint_state_that_differs_is_never_read_as_if_it_did_not(ros1, place, value, which):
    messages = joint_states(["left", "right"], np.arange(6.0).reshape(3, 2), ros1=ros1)
    data = bytearray(messages[which])
    data[place % len(data)] = value
    messages[which] = bytes(data)
    reader = JointStateReader(ros1=ros1)
    found = reader.read_alike(messages)
    if found is not None:
        each = [reader.read(message) for message in messages]
        assert None not in each
        assert same(found, each)


@pytest.mark.parametrize("ros1", [True, False])
def test_joint_states_of_several_lengths_are_read_one_by_one(ros1):
    few = joint_states(["a"], np.ones((2, 1)), ros1=ros1)
    more = joint_states(["a", "b"], np.ones((1, 2)), ros1=ros1)
    assert JointStateReader(ros1=ros1).read_alike([*few, *more]) is None
    assert JointStateReader(ros1=ros1).read_alike([few[0], few[1][:-1]]) is None
    assert JointStateReader(ros1=ros1).read_alike([each[:-1] for each in few]) is None


def test_rows_are_given_where_nothing_is_to_be_learned_or_said():
    reader = JointStateReader(ros1=True)
    rows = np.arange(6.0).reshape(3, 2)
    messages = joint_states(["a", "b"], rows, ros1=True)
    read = decoder(names=("b", "a"), scale=2.0)
    assert read.rows(reader.read_alike(messages)) is None  # the order of joints is not known
    first = read(reader.read(messages[0]))
    found = read.rows(reader.read_alike(messages))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, 2 * rows[:, ::-1])
    np.testing.assert_array_equal(found[0], first)
    rows[1, 0] = np.nan
    assert read.rows(reader.read_alike(joint_states(["a", "b"], rows, ros1=True))) is None
    others = joint_states(["b", "a"], np.ones((2, 2)), ros1=True)
    assert read.rows(reader.read_alike(others)) is None
