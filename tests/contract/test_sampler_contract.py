"""One suite for every way to open a dataset: embedded, server in this process, server process."""

import cv2
import h5py
import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from service_process import ServiceProcess

import penstock
from penstock.errors import InvalidInput
from penstock.server import ServerSettings, start
from penstock.targets import Target

CAMERAS = ("left_image", "right_image", "global_image")
IMAGE_SIZE = (24, 20)
ROWS = {"a.hdf5": 30, "b.hdf5": 41}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of format A; the first with N + 1 observations, both with two episodes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, rows in ROWS.items():
        observations = rows + (name == "a.hdf5")
        with h5py.File(folder / name, "w") as file:
            group = file.create_group("observations")
            group["joint"] = rng.normal(size=(observations, 5)).astype(np.float32)
            for camera in CAMERAS:
                group[camera] = rng.integers(0, 256, (observations, 32, 40, 3), dtype=np.uint8)
            file["actions"] = rng.normal(size=(rows, 4)).astype(np.float32)
            file["rewards"] = rng.normal(size=rows).astype(np.float32)
            terminals = np.zeros(rows, np.uint8)
            terminals[[11, rows - 1]] = 1
            file["terminals"] = terminals
    return folder


@pytest.fixture(scope="module", params=["embedded", "server in process", "server process"])
def target(request, data, tmp_path_factory):
    pattern = f"{data}/*.hdf5"
    if request.param == "embedded":
        yield f"file://{pattern}"
    elif request.param == "server in process":
        backend = open_backend(Target.parse(f"file://{pattern}"))
        service = SamplerService(backend, 8 << 20, 16)
        with start("sampler", ServerSettings(), service.register) as server:
            yield server.target
        backend.close()
    else:
        log = tmp_path_factory.mktemp("log") / "sampler.log"
        with ServiceProcess("sampler", "--data", pattern, log=log) as process:
            yield process.target


def read_plainly(data, transition_id):
    """A transition by h5py and cv2 alone. All rows of both files are servable."""
    name, row = ("a.hdf5", transition_id) if transition_id < 30 else ("b.hdf5", transition_id - 30)
    with h5py.File(data / name) as file:
        terminal = bool(file["terminals"][row])
        following = row if terminal else row + 1
        frames = [
            [
                cv2.resize(
                    file["observations"][camera][index],
                    IMAGE_SIZE[::-1],
                    interpolation=cv2.INTER_LINEAR,
                )
                for camera in CAMERAS
            ]
            for index in (row, following)
        ]
        return {
            "frames": np.array(frames),
            "joint": file["observations/joint"][row],
            "next_joint": file["observations/joint"][following],
            "action": file["actions"][row],
            "reward": file["rewards"][row],
            "terminal": terminal,
        }


@pytest.fixture
def sampler(target):
    with penstock.open_sampler(target, image_size=IMAGE_SIZE, retry_s=5) as client:
        yield client


def test_the_dataset_is_described(sampler, data):
    info = sampler.info
    assert info.camera_names == ("left", "right", "global")
    assert [(camera.height, camera.width) for camera in info.cameras] == [(32, 40)] * 3
    assert (info.transitions, info.episodes, info.joint_dim, info.action_dim) == (71, 4, 5, 4)
    assert [file.file_id for file in info.files] == ["a.hdf5", "b.hdf5"]
    assert info.dropped_rows == 0
    with h5py.File(data / "a.hdf5") as a, h5py.File(data / "b.hdf5") as b:
        actions = np.concatenate([a["actions"][:], b["actions"][:]]).astype(np.float64)
    np.testing.assert_allclose(info.statistics["action"].mean, actions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(info.statistics["action"].std, actions.std(0), rtol=1e-5)


def test_a_batch_equals_plain_h5py_and_cv2_to_the_byte(sampler, data):
    plan = penstock.Plan(batch_size=71, split="all", sampling="epoch")
    batch = sampler.sample(plan, 0)
    assert sorted(batch.transition_ids) == list(range(71))
    for row, transition_id in enumerate(batch.transition_ids.tolist()):
        expected = read_plainly(data, transition_id)
        assert batch.frames[row].tobytes() == expected["frames"].tobytes()
        for name in ("joint", "next_joint", "action", "reward", "terminal"):
            assert (
                batch.columns[name][row].tobytes()
                == np.asarray(expected[name], batch.columns[name].dtype).tobytes()
            )


def test_every_way_gives_the_same_bytes(sampler, data):
    plan = penstock.Plan(seed=4, batch_size=33)
    with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=IMAGE_SIZE) as embedded:
        assert sampler.info.version == embedded.info.version
        for step in (0, 7, 123_456_789):
            ours, theirs = sampler.sample(plan, step), embedded.sample(plan, step)
            assert ours.transition_ids.tolist() == theirs.transition_ids.tolist()
            assert ours.frames.tobytes() == theirs.frames.tobytes()
            for name, values in ours.columns.items():
                assert values.tobytes() == theirs.columns[name].tobytes()


def test_prefetched_batches_come_in_order_and_can_be_resumed(sampler):
    plan = penstock.Plan(seed=1, batch_size=8)
    whole = [batch.transition_ids.tolist() for batch in sampler.batches(plan, stop_step=6)]
    later = list(sampler.batches(plan, 3, stop_step=6, prefetch=1))
    assert [batch.step for batch in later] == [3, 4, 5]
    assert [batch.transition_ids.tolist() for batch in later] == whole[3:]


def test_images_as_stored_without_a_size(target):
    with penstock.open_sampler(target, retry_s=5) as sampler:
        batch = sampler.sample(penstock.Plan(batch_size=2), 0)
    assert batch.frames.shape == (2, 2, 3, 32, 40, 3)
    assert batch.images["global"].shape == (2, 32, 40, 3)


def test_an_unknown_transition_is_refused_and_the_next_call_is_answered(sampler):
    with pytest.raises(InvalidInput, match="71"):
        sampler.fetch(np.array([3, 71]))
    assert len(sampler.fetch(np.array([3, 70]))) == 2


def test_a_batch_larger_than_the_split_is_refused(sampler):
    with pytest.raises(InvalidInput, match="batch_size 72"):
        sampler.sample(penstock.Plan(batch_size=72, split="all", sampling="epoch"), 0)


def test_a_batch_that_must_repeat_itself_is_given_and_said(target, caplog):
    with penstock.open_sampler(target, retry_s=5) as sampler:
        batch = sampler.sample(penstock.Plan(batch_size=72, split="all"), 0)
    assert len(set(batch.transition_ids.tolist())) < 72
    assert "batch_size 72 is larger than the split 'all' with 71 transitions" in caplog.text


def test_a_camera_that_is_not_there_is_answered_with_those_that_are(sampler):
    batch = sampler.sample(penstock.Plan(batch_size=2), 0)
    for images in (batch.images, batch.next_images):
        with pytest.raises(InvalidInput, match=r"no camera 'wrist'.*left, right, global"):
            images["wrist"]
    assert batch.images.get("wrist") is None


def test_pytorch_gets_the_same_batches_with_and_without_workers(target, sampler):
    torch_data = pytest.importorskip("torch.utils.data")
    from penstock.torch import BatchDataset

    plan = penstock.Plan(seed=2, batch_size=4)
    dataset = BatchDataset(target, plan, image_size=IMAGE_SIZE, retry_s=5)
    direct = []
    for batch in dataset:
        direct.append(batch)
        if len(direct) == 4:
            break
    assert dataset.state_dict() == {"plan": plan.to_dict(), "next_step": 4}
    resumed = BatchDataset(target, plan, image_size=IMAGE_SIZE, retry_s=5)
    resumed.load_state_dict(dataset.state_dict())
    assert next(iter(resumed))["step"] == 4
    loader = torch_data.DataLoader(
        BatchDataset(target, plan, image_size=IMAGE_SIZE, retry_s=5),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="spawn",
    )
    for expected, batch in zip(direct, loader, strict=False):
        assert batch["step"] == expected["step"]
        assert (batch["frames"] == expected["frames"]).all()
        assert (
            batch["transition_ids"].numpy() == sampler.sample(plan, batch["step"]).transition_ids
        ).all()
