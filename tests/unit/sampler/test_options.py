from __future__ import annotations

import pytest
from penstock_sampler.options import CameraNames, DataOptions, parse_cameras

from penstock.errors import InvalidInput


def test_known_cameras_stand_for_their_usual_names() -> None:
    assert parse_cameras("left,global") == (
        CameraNames("left", ("left_image", "left_wrist_image")),
        CameraNames("global", ("global_image",)),
    )


def test_a_camera_may_have_its_own_dataset_names() -> None:
    assert parse_cameras("wrist=wrist_rgb|wrist_cam, top") == (
        CameraNames("wrist", ("wrist_rgb", "wrist_cam")),
        CameraNames("top", ("top_image", "top")),
    )


@pytest.mark.parametrize("text", ["none", "", "  "])
def test_a_robot_may_have_no_camera(text: str) -> None:
    assert parse_cameras(text) == ()


@pytest.mark.parametrize("text", ["left,left", "left,", "=x", "a=", "a=x||y"])
def test_cameras_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_cameras(text)
    assert caught.value.field == "cameras"


def test_unknown_image_order_is_refused() -> None:
    with pytest.raises(InvalidInput, match="hcw"):
        DataOptions(image_order="hcw")  # type: ignore[arg-type]
