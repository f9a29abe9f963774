"""Names of cached files: by the recording's state and the image spec, nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from unit.sampler.cache.cached import key_of

from penstock.frame_file import FrameHeader

OTHERS: dict[str, dict[str, Any]] = {
    "path": {"path": "/data/b.hdf5"},
    "size of the recording": {"size_bytes": 1001},
    "time of change": {"modified_ns": 6},
    "content": {"digest": b"\2" * 16},
    "cameras": {"cameras": ("left",)},
    "order of cameras": {"cameras": ("wrist", "left")},
    "height": {"height": 7},
    "width": {"width": 7},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_frames_of_anything_else_have_another_name(other: dict[str, Any]) -> None:
    assert key_of(**other).name != key_of().name


def test_the_same_frames_have_the_same_name() -> None:
    assert key_of().name == key_of().name


def test_all_that_was_ever_made_of_a_recording_begins_alike() -> None:
    changed = ("size of the recording", "time of change", "content", "cameras", "height")
    keys = [key_of(), *(key_of(**OTHERS[name]) for name in changed)]
    assert {key.name.partition("-")[0] for key in keys} == {key_of().place}
    assert key_of(path="/data/b.hdf5").place != key_of().place


def test_a_path_that_is_no_text_has_a_name() -> None:
    assert key_of(path="/data/\udcff.hdf5").name != key_of(path="/data/\udcfe.hdf5").name


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_header_of_anything_else_does_not_fit(other: dict[str, Any]) -> None:
    assert key_of().fits(key_of().header("lz4"))
    assert not key_of().fits(key_of(**other).header("lz4"))


def test_fewer_observations_do_not_fit() -> None:
    header: FrameHeader = key_of(rows=5).header("raw")
    assert not key_of().fits(header)
