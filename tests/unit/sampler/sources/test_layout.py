from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from penstock_sampler.checks.findings import Findings
from penstock_sampler.index.examine import examine
from penstock_sampler.options import DataOptions, parse_cameras
from penstock_sampler.sources.layout import read_layout
from penstock_sampler.sources.opening import Hdf5File
from unit.sampler.recording import CAMERAS, arrays, write

from penstock.errors import DataFault

ANY = DataOptions()


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("extra", [0, 1])
def test_both_formats_are_recognised(tmp_path: Path, form: str, order: str, extra: int) -> None:
    contents = arrays(10, observations=10 + extra, form=form, order=order, terminals=[9])
    layout = examine(write(tmp_path / "a.hdf5", contents), ANY).layout
    prefix = "observations/" if form == "A" else ""
    assert (layout.format, layout.rows, layout.observations) == (form, 10, 10 + extra)
    assert (layout.joint, layout.joint_dim, layout.action_dim) == (f"{prefix}joint", 4, 3)
    assert [image.dataset for image in layout.images] == [prefix + name for name in CAMERAS]
    assert {(image.height, image.width, image.order) for image in layout.images} == {(6, 8, order)}


def test_wrist_names_are_accepted(tmp_path: Path) -> None:
    names = ("left_wrist_image", "right_wrist_image", "global_image")
    layout = examine(write(tmp_path / "a.hdf5", arrays(cameras=names)), ANY).layout
    assert [image.camera for image in layout.images] == ["left", "right", "global"]
    assert layout.images[0].dataset == "observations/left_wrist_image"


def test_of_two_accepted_names_the_first_is_used_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(cameras=(*CAMERAS, "left_wrist_image")))
    findings = Findings(str(path))
    with Hdf5File(path) as file:
        layout = read_layout(file, ANY, findings)
    assert layout is not None
    assert layout.images[0].dataset == "observations/left_image"
    assert [finding.reason for finding in findings.warnings] == ["AMBIGUOUS_NAME"]


def test_other_cameras_come_by_setting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(cameras=("cam0", "wrist_rgb")))
    layout = examine(path, DataOptions(parse_cameras("wrist=wrist_rgb,cam0"))).layout
    assert [image.dataset for image in layout.images] == [
        "observations/wrist_rgb",
        "observations/cam0",
    ]
    assert examine(path, DataOptions(())).layout.images == ()


@pytest.mark.parametrize("shape", [(10,), (10, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_flags_and_rewards_come_in_either_shape(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    contents = arrays(10) | {
        "terminals": np.eye(10)[4].reshape(shape).astype(dtype),
        "timeouts": np.eye(10)[6].reshape(shape).astype(dtype),
        "rewards": np.arange(10, dtype="float64" if dtype == "bool" else dtype).reshape(shape),
    }
    found = examine(write(tmp_path / "a.hdf5", contents), ANY)
    assert found.layout.cuts == ("timeouts",)
    assert found.episodes.outcome.tolist() == [1, 2, 0]


def _without(name: str) -> dict[str, Any]:
    contents = arrays()
    del contents[name]
    return contents


BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no left camera": (
        _without("observations/left_image"),
        "MISSING_KEY",
        ["left_image, left_wrist_image", "observations/", "global_image, joint", "cameras"],
    ),
    "no joint": (_without("observations/joint"), "MISSING_KEY", ["joint", "left_image"]),
    "no actions": (_without("actions"), "MISSING_KEY", ["actions", "the root", "rewards"]),
    "no rewards": (_without("rewards"), "MISSING_KEY", ["rewards"]),
    "no terminals": (_without("terminals"), "MISSING_KEY", ["terminals"]),
    "joint is a group": (
        _without("observations/joint") | {"observations/joint/position": np.zeros((11, 4))},
        "WRONG_RANK",
        ["observations/joint", "group"],
    ),
    "flat actions": (
        arrays() | {"actions": np.zeros(10, np.float32)},
        "WRONG_RANK",
        ["actions", "(10,)", "(N, 1)"],
    ),
    "wide rewards": (
        arrays() | {"rewards": np.zeros((10, 2), np.float32)},
        "WRONG_RANK",
        ["rewards", "(10, 2)", "(N,) or (N, 1)"],
    ),
    "scalar rewards": (
        arrays() | {"rewards": np.float32(1)},
        "WRONG_RANK",
        ["rewards", "()"],
    ),
    "grey images": (
        arrays() | {"observations/left_image": np.ones((11, 6, 8), np.uint8)},
        "WRONG_RANK",
        ["left_image", "(11, 6, 8)"],
    ),
    "float images": (
        arrays() | {"observations/left_image": np.ones((11, 6, 8, 3), np.float32)},
        "WRONG_DTYPE",
        ["left_image", "float32", "uint8"],
    ),
    "four channels": (
        arrays() | {"observations/left_image": np.ones((11, 6, 8, 4), np.uint8)},
        "WRONG_SHAPE",
        ["left_image", "(11, 6, 8, 4)", "3 channels"],
    ),
    "text as joint": (
        arrays() | {"observations/joint": np.full((11, 4), b"x")},
        "WRONG_DTYPE",
        ["observations/joint", "|S1"],
    ),
    "complex rewards": (
        arrays() | {"rewards": np.zeros(10, np.complex64)},
        "WRONG_DTYPE",
        ["rewards", "complex64"],
    ),
    "ambiguous order": (
        arrays() | {"observations/left_image": np.ones((11, 3, 8, 3), np.uint8)},
        "AMBIGUOUS_IMAGE_ORDER",
        ["left_image", "(11, 3, 8, 3)", "image_order"],
    ),
    "short camera": (
        arrays(100) | {"observations/left_image": np.ones((99, 6, 8, 3), np.uint8)},
        "ROW_COUNT_MISMATCH",
        ["left_image has 99 rows", "100 (N) or 101 (N+1)"],
    ),
    "long joint": (
        arrays() | {"observations/joint": np.ones((12, 4), np.float32)},
        "ROW_COUNT_MISMATCH",
        ["joint has 12 rows", "10 (N) or 11 (N+1)"],
    ),
    "N and N+1 mixed": (
        arrays() | {"observations/joint": np.ones((10, 4), np.float32)},
        "ROW_COUNT_MISMATCH",
        ["joint 10", "left_image 11"],
    ),
    "short rewards": (
        arrays() | {"rewards": np.ones(9, np.float32)},
        "ROW_COUNT_MISMATCH",
        ["rewards has 9 rows", "expected 10 (N)"],
    ),
    "short timeouts": (
        arrays() | {"timeouts": np.zeros(11, np.bool_)},
        "ROW_COUNT_MISMATCH",
        ["timeouts has 11 rows"],
    ),
    "no rows": (arrays(0), "EMPTY", ["actions has 0 rows"]),
    "no width": (
        arrays() | {"actions": np.zeros((10, 0), np.float32)},
        "WRONG_RANK",
        ["actions", "(10, 0)"],
    ),
    "terminals of two": (
        arrays() | {"terminals": np.full(10, 2)},
        "WRONG_VALUE",
        ["terminals[0] is 2", "0 or 1"],
    ),
    "terminals not a number": (
        arrays() | {"terminals": np.where(np.arange(10) == 7, np.nan, 0.0)},
        "WRONG_VALUE",
        ["terminals[7] is nan"],
    ),
    "inclusive episode ends": (
        arrays() | {"episode_ends": [4, 9]},
        "WRONG_VALUE",
        ["episode_ends ends with 9", "10 (N)"],
    ),
    "descending episode ends": (
        arrays() | {"episode_ends": [7, 4, 10]},
        "WRONG_VALUE",
        ["episode_ends", "ascend"],
    ),
    "too many episode ends": (
        arrays() | {"episode_ends": np.arange(1, 12)},
        "WRONG_VALUE",
        ["episode_ends has 11 entries"],
    ),
    "episode ends by fractions": (
        arrays() | {"episode_ends": [5.0, 10.0]},
        "WRONG_DTYPE",
        ["episode_ends", "float64"],
    ),
    "one lonely row": (
        arrays(1, observations=1),
        "NO_TRANSITIONS",
        ["none of 1 rows"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_each_fault_names_file_dataset_value_and_remedy(tmp_path: Path, case: str) -> None:
    contents, reason, words = BAD[case]
    path = write(tmp_path / "faulty.hdf5", contents)
    with pytest.raises(DataFault) as caught:
        examine(path, ANY)
    assert caught.value.reason == reason
    assert caught.value.metadata["file"] == str(path)
    for word in (str(path), *words):
        assert word in caught.value.message


def test_ambiguous_images_are_decided_by_setting(tmp_path: Path) -> None:
    contents = arrays(size=(3, 8), order="chw")
    contents = {
        name: np.ones((11, 3, 3, 3), np.uint8) if "image" in name else values
        for name, values in contents.items()
    }
    path = write(tmp_path / "a.hdf5", contents)
    for order in ("hwc", "chw"):
        layout = examine(path, DataOptions(image_order=order)).layout
        assert {image.order for image in layout.images} == {order}


def test_an_insisted_order_refuses_the_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(order="hwc"))
    with pytest.raises(DataFault, match="first \\(CHW\\)"):
        examine(path, DataOptions(image_order="chw"))


def test_a_dangling_link_is_a_missing_key(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", _without("observations/left_image"))
    with h5py.File(path, "a") as file:
        file["observations/left_image"] = h5py.ExternalLink("gone.hdf5", "/images")
    with pytest.raises(DataFault, match="leads nowhere") as caught:
        examine(path, ANY)
    assert caught.value.reason == "MISSING_KEY"


def test_arrays_that_were_never_written_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", _without("observations/left_image"))
    with h5py.File(path, "a") as file:
        file.create_dataset("observations/left_image", (11, 6, 8, 3), "u1", chunks=(1, 6, 8, 3))
    with pytest.raises(DataFault) as caught:
        examine(path, ANY)
    assert caught.value.reason == "NEVER_WRITTEN"


def test_a_huge_chunk_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", _without("rewards"))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (10,), "f8", chunks=(200_000_000,), maxshape=(None,))
    with pytest.raises(DataFault) as caught:
        examine(path, ANY)
    assert caught.value.reason == "TOO_LARGE"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("empty", "EMPTY"),
        ("text", "NOT_HDF5"),
        ("truncated", "TRUNCATED"),
        ("gone", "MISSING"),
        ("folder", "NOT_A_FILE"),
    ],
)
def test_what_is_no_hdf5_file_says_so(tmp_path: Path, damage: str, reason: str) -> None:
    path = write(tmp_path / "a.hdf5", arrays())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("observations: none\n" * 100)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        path.unlink()
    if damage == "folder":
        path.mkdir()
    with pytest.raises(DataFault) as caught:
        examine(path, ANY)
    assert caught.value.reason == reason
    assert str(path) in caught.value.message


def test_a_damaged_chunk_refuses_the_file(tmp_path: Path) -> None:
    contents = arrays()
    path = write(tmp_path / "a.hdf5", contents, chunks=True, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["observations/left_image"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(data)
    with pytest.raises(DataFault, match=r"left_image.*cannot be read") as caught:
        examine(path, ANY)
    assert caught.value.reason == "UNREADABLE"
