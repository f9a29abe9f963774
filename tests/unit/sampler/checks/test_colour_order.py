from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import cbook
from penstock_sampler.checks.colour_order import (
    ColourProfile,
    check_colours,
    relate_colours,
    sample_pixels,
)
from penstock_sampler.checks.findings import Findings
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from unit.sampler.checks.scenes import LEAF, SHEET, WOOD, Frames, swapped, table, through_jpeg


def _profile(frames: Frames, camera: str = "left") -> ColourProfile:
    pixels = np.concatenate([sample_pixels(frame, "hwc") for frame in frames])
    return ColourProfile.of(camera, f"{camera}_image", pixels)


def _reasons(*profiles: ColourProfile) -> list[tuple[str, str]]:
    findings = Findings("a.hdf5")
    check_colours(profiles, findings)
    return [(warning.reason, warning.dataset) for warning in findings.warnings]


@pytest.fixture(scope="module")
def portrait() -> Frames:
    """A photograph as OpenCV reads it from its JPEG file: BGR."""
    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return cv2.imread(str(path))[None]


@pytest.fixture(scope="module")
def football(real_data: Path) -> Frames:
    """Frames of a real recording, rgb8: green ground, pale blue walls, no wood and no skin."""
    store = get_typestore(Stores.LATEST)
    frames: list[Frames] = []
    with AnyReader(
        [real_data / "bags/amber/soccer_goal_single"], default_typestore=store
    ) as reader:
        for _, _, data in reader.messages():
            # The recording spells the type without /msg/.
            message = reader.typestore.deserialize_cdr(data, "sensor_msgs/msg/Image")
            assert message.encoding == "rgb8"
            frames.append(message.data.reshape(message.height, message.width, 3))
    return np.stack(frames)


def test_what_opencv_reads_from_a_photograph_is_recognised_as_bgr(portrait: Frames) -> None:
    assert _reasons(_profile(portrait)) == [("BGR_IMAGES", "left_image")]


def test_a_photograph_in_rgb_raises_no_warning(portrait: Frames) -> None:
    rgb = _profile(swapped(portrait))
    assert rgb.order == "rgb"
    assert _reasons(rgb) == []


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("ground", [WOOD, SHEET, LEAF])
def test_decoded_jpeg_tells_the_order_whatever_the_colours(
    ground: tuple[int, int, int], quality: int
) -> None:
    decoded = through_jpeg(table(4, ground=ground), quality)
    assert _profile(decoded).order == "rgb"
    assert _profile(swapped(decoded)).order == "bgr"


@pytest.mark.parametrize(
    ("to", "back"),
    [
        (cv2.COLOR_RGB2YUV_I420, cv2.COLOR_YUV2RGB_I420),
        (cv2.COLOR_RGB2YUV_YUY2, cv2.COLOR_YUV2RGB_YUY2),
    ],
)
def test_camera_formats_tell_the_order_too(to: int, back: int) -> None:
    frames = np.stack([cv2.cvtColor(cv2.cvtColor(frame, to), back) for frame in table(4)])
    assert _profile(frames).order == "rgb"
    assert _profile(swapped(frames)).order == "bgr"


def test_frames_that_were_resized_have_lost_what_the_decoder_tells() -> None:
    decoded = through_jpeg(table(4, size=(240, 320)))
    small = np.stack([cv2.resize(frame, (224, 224)) for frame in decoded])
    assert _profile(small).order == ""
    assert _profile(swapped(small)).order == ""


def test_a_few_flat_colours_prove_nothing() -> None:
    drawn = np.full((2, 60, 80, 3), 90, np.uint8)
    drawn[:, 10:30, 10:30], drawn[:, 30:50, 10:30] = (220, 40, 40), (40, 40, 220)
    assert _profile(drawn).explained == (0.0, 0.0)
    assert _reasons(_profile(drawn)) == []


def test_noise_and_grey_raise_no_warning() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 60, 80, 3), np.uint8)
    grey = np.repeat(noise[..., :1], 3, axis=3)
    assert _reasons(_profile(noise), _profile(grey, "right")) == []


def test_wood_and_skin_raise_no_warning_and_hint_at_bgr_when_swapped() -> None:
    scene = table(4)
    assert _profile(scene).order == ""
    assert _reasons(_profile(scene)) == []
    assert _reasons(_profile(swapped(scene))) == [("MAYBE_BGR", "left_image")]


def test_a_blue_sheet_with_a_hand_on_it_raises_no_warning() -> None:
    assert _reasons(_profile(table(4, ground=SHEET))) == []


def test_wood_at_another_camera_explains_a_blue_scene() -> None:
    blue = _profile(table(4, ground=SHEET, things=()))
    assert _reasons(blue) == [("MAYBE_BGR", "left_image")]
    brown = _profile(table(4, ground=(150, 120, 90), things=(WOOD, LEAF)), "right")
    assert _reasons(blue, brown) == []


def test_a_camera_known_to_be_rgb_speaks_for_a_blue_scene() -> None:
    blue = _profile(table(4, ground=SHEET, things=()))
    known = _profile(through_jpeg(table(4, ground=LEAF, things=())), "right")
    assert known.order == "rgb"
    assert _reasons(blue, known) == []


def test_cameras_of_a_scene_that_disagree_are_a_warning_about_the_blue_one() -> None:
    left, right = table(4, seed=1), table(4, seed=2, size=(120, 160))
    assert _reasons(_profile(left), _profile(right, "right")) == []
    found = _reasons(_profile(left), _profile(swapped(right), "right"))
    assert found == [("COLOURS_SWAPPED", "right_image")]


def test_a_camera_known_to_be_rgb_puts_the_warning_on_the_other() -> None:
    scene = table(4, ground=SHEET, things=(LEAF,))
    known = _profile(through_jpeg(scene))
    assert known.order == "rgb"
    found = _reasons(known, _profile(swapped(table(4, ground=SHEET, things=(LEAF,))), "right"))
    assert found == [("COLOURS_SWAPPED", "right_image")]


def test_comparing_does_not_depend_on_where_a_colour_is_in_the_image() -> None:
    scene = table(4)
    turned = np.ascontiguousarray(np.rot90(scene, axes=(1, 2)))
    assert relate_colours(_profile(scene), _profile(turned)) == "same"
    assert relate_colours(_profile(scene), _profile(swapped(turned))) == "swapped"
    assert relate_colours(_profile(scene), _profile(table(4, ground=LEAF))) == ""


def test_channels_first_are_sampled_as_channels_last() -> None:
    frame = table(1)[0]
    first = np.ascontiguousarray(np.moveaxis(frame, 2, 0))
    assert np.array_equal(sample_pixels(first, "chw"), sample_pixels(frame, "hwc"))


@pytest.mark.real_data
def test_a_real_recording_in_rgb_raises_no_warning(football: Frames) -> None:
    assert _reasons(_profile(football)) == []


@pytest.mark.real_data
def test_a_real_recording_whose_frames_came_as_jpeg_is_recognised_as_bgr(football: Frames) -> None:
    decoded = through_jpeg(football)
    assert _reasons(_profile(decoded)) == []
    assert _reasons(_profile(swapped(decoded))) == [("BGR_IMAGES", "left_image")]


@pytest.mark.real_data
def test_a_real_recording_in_bgr_is_told_from_its_twin_only(football: Frames) -> None:
    """Green and pale blue alone say nothing about one file; that is what the documents say."""
    rgb, bgr = _profile(football), _profile(swapped(football))
    assert _reasons(bgr) == []
    assert relate_colours(rgb, bgr) == "swapped"
