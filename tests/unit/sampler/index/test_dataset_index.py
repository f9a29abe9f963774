from __future__ import annotations

import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from penstock_sampler.index.dataset_index import DatasetIndex, build_index
from penstock_sampler.index.discovery import find_files
from penstock_sampler.options import DataOptions, parse_cameras
from unit.sampler.recording import arrays, write

from penstock.errors import DataFault


def _index(folder: Path, cameras: str = "left,right,global") -> DatasetIndex:
    return build_index(find_files([f"{folder}/*.hdf5"]), DataOptions(parse_cameras(cameras)))


def test_one_bad_file_of_each_kind_takes_no_other_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write(tmp_path / f"good{number}.hdf5", arrays(seed=number))
    (tmp_path / "empty.hdf5").touch()
    (tmp_path / "text.hdf5").write_text("hello" * 100)
    whole = write(tmp_path / "cut.hdf5", arrays())
    whole.write_bytes(whole.read_bytes()[:-500])
    bare = arrays()
    del bare["observations/right_image"]
    write(tmp_path / "bare.hdf5", bare)
    write(tmp_path / "wide.hdf5", arrays(joint_dim=5))
    with caplog.at_level(logging.WARNING):
        info = _index(tmp_path).info
    assert [file.file_id for file in info.files] == ["good0.hdf5", "good1.hdf5", "good2.hdf5"]
    assert {file.file_id: file.reason for file in info.refused} == {
        "bare.hdf5": "MISSING_KEY",
        "cut.hdf5": "TRUNCATED",
        "empty.hdf5": "EMPTY",
        "text.hdf5": "NOT_HDF5",
        "wide.hdf5": "WIDTH_MISMATCH",
    }
    assert info.transitions == 30
    for refused in info.refused:
        assert refused.file_id in caplog.text
        assert refused.reason in caplog.text


def test_scalars_that_cannot_be_read_refuse_the_file_and_leave_no_trace(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", arrays(seed=1))
    bad = write(tmp_path / "b.hdf5", arrays(seed=2), chunks=True, compression="gzip")
    write(tmp_path / "c.hdf5", arrays(seed=3))
    with h5py.File(bad) as file:
        chunk = file["actions"].id.get_chunk_info(0)
    data = bytearray(bad.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    bad.write_bytes(data)
    index = _index(tmp_path)
    assert [file.file_id for file in index.info.refused] == ["b.hdf5"]
    bad.unlink()
    clean = _index(tmp_path)
    assert clean.info.version == index.info.version
    assert clean.info.statistics["joint"].count == index.info.statistics["joint"].count == 20
    located = index.locate(np.arange(20))
    for one, other in zip(clean.read_records(located), index.read_records(located), strict=True):
        np.testing.assert_array_equal(one, other)


def test_when_nothing_can_be_served_the_first_reasons_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").touch()
    (tmp_path / "b.hdf5").write_text("hello" * 100)
    with pytest.raises(DataFault, match=r"none of 2 files.*a\.hdf5.*b\.hdf5"):
        _index(tmp_path)


def test_statistics_are_over_servable_transitions(tmp_path: Path) -> None:
    contents = arrays(10, observations=10, terminals=[4])  # row 9 has no next observation
    contents["rewards"][9] = 1e9
    write(tmp_path / "a.hdf5", contents)
    info = _index(tmp_path).info
    assert (info.transitions, info.dropped_rows) == (9, 1)
    for name, values in (
        ("joint", contents["observations/joint"]),
        ("action", contents["actions"]),
        ("reward", contents["rewards"][:, None]),
    ):
        found, rows = info.statistics[name], values[:9].astype(np.float64)
        assert found.count == 9
        np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-5)
        np.testing.assert_array_equal(found.min, values[:9].min(axis=0))
        np.testing.assert_array_equal(found.max, values[:9].max(axis=0))


def test_rows_with_nan_are_served_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = arrays()
    contents["observations/joint"][3, 1] = np.nan
    write(tmp_path / "a.hdf5", contents)
    with caplog.at_level(logging.WARNING):
        info = _index(tmp_path).info
    assert info.transitions == 10
    assert info.statistics["joint"].count == 9
    assert np.isfinite(info.statistics["joint"].mean).all()
    assert "joint: 1 rows" in caplog.text


def test_copies_have_the_same_version_and_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for number in range(3):
        write(tmp_path / "one" / f"{number}.hdf5", arrays(seed=number, terminals=[4]))
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    one, two = _index(tmp_path / "one"), _index(tmp_path / "two")
    assert one.info.version == two.info.version
    assert (one.episodes.split_key == two.episodes.split_key).all()


@pytest.mark.parametrize("changed", ["actions", "rewards", "terminals", "observations/joint"])
def test_a_value_changed_in_place_changes_the_version(tmp_path: Path, changed: str) -> None:
    path = write(tmp_path / "a.hdf5", arrays(200, terminals=[50]))
    before = _index(tmp_path).info
    with h5py.File(path, "a") as file:
        file[changed][-1] = 1
    after = _index(tmp_path).info
    assert after.files[0].size_bytes == before.files[0].size_bytes
    assert after.version != before.version


def test_cameras_are_part_of_the_version(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", arrays())
    assert _index(tmp_path).info.version != _index(tmp_path, "global,left,right").info.version


def test_a_renamed_file_changes_the_version_because_its_splits_change(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays())
    before = _index(tmp_path)
    path.rename(tmp_path / "b.hdf5")
    after = _index(tmp_path)
    assert after.episodes.split_key.tolist() != before.episodes.split_key.tolist()
    assert after.info.version != before.info.version


def test_adding_files_leaves_episodes_in_their_split(tmp_path: Path) -> None:
    write(tmp_path / "b.hdf5", arrays(seed=1, terminals=[2, 5]))
    before = _index(tmp_path).episodes.split_key.tolist()
    write(tmp_path / "a.hdf5", arrays(seed=2, terminals=[2]))
    after = _index(tmp_path).episodes
    assert after.split_key[after.file == 1].tolist() == before
    assert len(set(after.split_key.tolist())) == 5


def test_split_keys_are_uniform(tmp_path: Path) -> None:
    for number in range(20):
        write(
            tmp_path / f"{number}.hdf5",
            arrays(100, cameras=(), terminals=range(0, 100, 2), seed=number),
        )
    keys = _index(tmp_path, "none").episodes.split_key
    share = (keys / 2.0**64 < 0.9).mean()
    assert len(keys) == 1020
    assert abs(share - 0.9) < 0.03


def test_most_files_decide_the_camera_size_and_the_rest_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.hdf5", arrays(size=(12, 16)))
    write(tmp_path / "b.hdf5", arrays(seed=1))
    write(tmp_path / "c.hdf5", arrays(seed=2))
    with caplog.at_level(logging.WARNING):
        info = _index(tmp_path).info
    assert {(camera.height, camera.width) for camera in info.cameras} == {(6, 8)}
    assert "left camera: 1 of 3 files store another size than 6x8" in caplog.text
