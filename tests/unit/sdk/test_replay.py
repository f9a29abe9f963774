"""The drop-in buffer against a plain one, written here as its users have written it."""

import cv2
import h5py
import numpy as np
import pytest
import torch
from service_process import ServiceProcess

from penstock import errors
from penstock.torch import AsyncSampler, MultimodalReplayBuffer

ROWS, JOINTS, ACTIONS = 24, 16, 14
CAMERAS = ("left_image", "right_image", "global_image")
ENDS = (7, 23)
"""Rows that end an episode."""


def record(path, size=(20, 16), seed=0):
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for camera in CAMERAS:
            file[f"observations/{camera}"] = rng.integers(0, 256, (ROWS, *size, 3), np.uint8)
        file["observations/joint"] = rng.normal(size=(ROWS, JOINTS)).astype(np.float32)
        file["actions"] = rng.normal(size=(ROWS, ACTIONS)).astype(np.float32)
        file["rewards"] = rng.normal(size=ROWS).astype(np.float32)
        file["terminals"] = np.isin(np.arange(ROWS), ENDS)
    return path


class PlainBuffer:
    """Arrays of one file in memory; a row's next observation is the row after it."""

    def __init__(self, path):
        with h5py.File(path) as file:
            self.images = [np.moveaxis(file[f"observations/{name}"][:], 3, 1) for name in CAMERAS]
            self.joint, self.action = file["observations/joint"][:], file["actions"][:]
            self.reward, self.terminal = file["rewards"][:], file["terminals"][:]

    def rows(self, rows):
        return (
            *(images[rows] for images in self.images),
            self.joint[rows],
            self.action[rows],
            *(images[rows + 1] for images in self.images),
            self.joint[rows + 1],
            self.reward[rows, None],
            1.0 - self.terminal[rows, None].astype(np.float32),
        )

    def row_of(self, action):
        """Rows by their action, which no two rows share."""
        return np.array([np.flatnonzero((self.action == one).all(axis=1))[0] for one in action])


@pytest.fixture
def recording(tmp_path):
    return record(tmp_path / "arm.hdf5")


@pytest.fixture
def buffer(recording):
    with MultimodalReplayBuffer(ACTIONS, JOINTS, image_size=(20, 16), seed=3) as made:
        made.load_from_hdf5(str(recording))
        yield made


def test_inside_an_episode_it_gives_what_the_plain_buffer_gives(buffer, recording):
    plain = PlainBuffer(recording)
    batch = buffer.sample(200)
    rows = plain.row_of(batch[4].numpy())
    inside = ~np.isin(rows, ENDS)
    assert inside.sum() > 100
    for ours, theirs in zip(batch, plain.rows(rows[inside]), strict=True):
        np.testing.assert_array_equal(ours.numpy()[inside], theirs)


def test_it_draws_every_transition_and_no_pair_over_the_end_of_an_episode(buffer, recording):
    plain = PlainBuffer(recording)
    batch = buffer.sample(600)
    rows = plain.row_of(batch[4].numpy())
    assert set(rows) == set(range(ROWS))
    ended = np.isin(rows, ENDS)
    for camera in range(3):
        np.testing.assert_array_equal(batch[5 + camera][ended], batch[camera][ended])
    assert (batch[10].numpy()[ended] == 0).all()
    assert (batch[10].numpy()[~ended] == 1).all()


def test_eleven_tensors_have_the_shapes_and_dtypes_of_old(buffer):
    image, joint, action = ((9, 3, 20, 16), torch.uint8), ((9, JOINTS), torch.float32), ACTIONS
    expected = [
        *([image] * 3),
        joint,
        ((9, action), torch.float32),
        *([image] * 3),
        joint,
        ((9, 1), torch.float32),
        ((9, 1), torch.float32),
    ]
    assert [(tuple(t.shape), t.dtype) for t in buffer.sample(9)] == expected


def test_images_are_resized_as_the_plain_buffer_resizes_them_to_one_level(recording):
    plain = PlainBuffer(recording)
    with MultimodalReplayBuffer(ACTIONS, JOINTS) as buffer:
        buffer.load_from_hdf5(str(recording))
        batch = buffer.sample(4)
    rows = plain.row_of(batch[4].numpy())
    for camera in range(3):
        for ours, row in zip(batch[camera].numpy(), rows, strict=True):
            stored = np.ascontiguousarray(np.moveaxis(plain.images[camera][row], 0, 2))
            theirs = np.moveaxis(cv2.resize(stored, (224, 224)), 2, 0)
            assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_numpy_seed_fixes_the_draws(recording):
    def drawn():
        np.random.seed(5)  # noqa: NPY002 - what old training scripts call
        with MultimodalReplayBuffer(ACTIONS, JOINTS, image_size=(20, 16)) as buffer:
            buffer.load_from_hdf5(str(recording))
            return torch.stack([buffer.sample(16)[4] for _ in range(3)])

    first = drawn()
    assert torch.equal(first, drawn())
    assert not torch.equal(first[0], first[1])


def test_statistics_and_size_are_those_of_the_file(buffer, recording):
    plain = PlainBuffer(recording)
    np.testing.assert_allclose(buffer.action_mean, plain.action.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(buffer.action_std, plain.action.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(buffer.joint_mean, plain.joint.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(buffer.joint_std, plain.joint.std(axis=0), rtol=1e-5)
    assert buffer.size == len(buffer) == ROWS


def test_num_traj_counts_episodes(recording):
    with MultimodalReplayBuffer(ACTIONS, JOINTS) as buffer:
        buffer.load_from_hdf5(str(recording), num_traj=1)
        assert buffer.size == ENDS[0] + 1


def test_a_remote_target_gives_the_same_draws(recording, tmp_path, buffer):
    with (
        ServiceProcess("sampler", "--data", str(recording), log=tmp_path / "log") as server,
        MultimodalReplayBuffer(ACTIONS, JOINTS, image_size=(20, 16), seed=3) as remote,
    ):
        remote.load_from_hdf5(server.target)
        for ours, theirs in zip(remote.sample(32), buffer.sample(32), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((ACTIONS + 1, JOINTS), "action_dim"), ((ACTIONS, JOINTS - 1), "joint_dim")],
)
def test_other_widths_are_refused_by_name(recording, arguments, field):
    with pytest.raises(errors.InvalidInput, match=field):
        MultimodalReplayBuffer(*arguments).load_from_hdf5(str(recording))


def test_misuse_is_told_with_the_way_out(recording, buffer):
    with pytest.raises(errors.Unsupported, match="HDF5"):
        buffer.add(1, 2, 3)
    with pytest.raises(errors.InvalidInput, match="pattern"):
        buffer.load_from_hdf5(str(recording))
    with pytest.raises(errors.InvalidInput, match="load_from_hdf5"):
        MultimodalReplayBuffer(ACTIONS, JOINTS).sample(4)


def test_more_transitions_than_max_size_are_told_and_drawn_from(recording, caplog):
    with MultimodalReplayBuffer(ACTIONS, JOINTS, max_size=5) as buffer:
        buffer.load_from_hdf5(str(recording))
        assert buffer.size == ROWS
    assert "max_size 5" in caplog.text


def test_async_sampler_gives_the_batches_of_the_buffer_in_order(recording):
    def made():
        buffer = MultimodalReplayBuffer(ACTIONS, JOINTS, image_size=(20, 16), seed=9)
        buffer.load_from_hdf5(str(recording))
        return buffer

    with made() as ahead, made() as alone, AsyncSampler(ahead, 8, queue_size=2) as sampler:
        for _ in range(6):
            for ours, theirs in zip(sampler.get_batch(), alone.sample(8), strict=True):
                assert torch.equal(ours, theirs)


def test_a_fault_in_the_background_reaches_whoever_asks(recording):
    with MultimodalReplayBuffer(ACTIONS, JOINTS) as buffer:
        sampler = AsyncSampler(buffer, 8)  # nothing was loaded
        with pytest.raises(errors.InvalidInput, match="load_from_hdf5"):
            sampler.get_batch()
        sampler.stop()


def test_a_stopped_sampler_says_so(buffer):
    sampler = AsyncSampler(buffer, 8)
    sampler.stop()
    sampler.stop()
    with pytest.raises(errors.InvalidInput, match="stopped"):
        sampler.get_batch()
