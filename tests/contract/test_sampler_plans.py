"""Windows, mixtures and weights: the same batches embedded, by Fetch and by Sample."""

import json
from contextlib import closing

import grpc
import h5py
import numpy as np
import pytest
import torch
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from penstock_sampler.settings import DataSettings

import penstock
from penstock.client.messages import ACCEPTED_CODECS
from penstock.client.plan_messages import plan_to_message
from penstock.errors import InvalidInput, NotFound
from penstock.server import ServerSettings, start
from penstock.targets import Target
from penstock.torch import BatchDataset, to_tensors
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub
from penstock.weights import Priorities

# Two episodes a file: rows 0 to 4, and 5 to 13. Every row is servable.
ROWS, SPLIT_AT = 14, 5
FILES = ("notes/x.hdf5", "real/a.hdf5", "sim/b.hdf5")
MIXTURE = (("sim/*", 1.0), ("real/*", 2.0))
SETTINGS = {"cameras": "left", "weight_columns": "priority"}

PLANS = {
    "windows": penstock.Plan(seed=1, batch_size=6, split="all", window=4),
    "windows of an epoch": penstock.Plan(
        seed=2, batch_size=7, split="all", sampling="epoch", window=3
    ),
    "a mixture": penstock.Plan(seed=3, batch_size=8, split="all", mixture=MIXTURE),
    "by weights": penstock.Plan(
        seed=4, batch_size=8, split="all", sampling="weighted", weight_column="priority"
    ),
    "everything": penstock.Plan(
        seed=5,
        batch_size=5,
        split="all",
        sampling="weighted",
        weight_column="priority",
        mixture=MIXTURE,
        window=3,
        rank=1,
        world=2,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        with h5py.File(folder / name, "w") as file:
            file["joint"] = rng.normal(size=(ROWS, 2)).astype(np.float32)
            file["left_image"] = rng.integers(0, 256, (ROWS, 6, 8, 3), dtype=np.uint8)
            file["actions"] = rng.normal(size=(ROWS, 2)).astype(np.float32)
            file["rewards"] = rng.normal(size=ROWS).astype(np.float32)
            file["terminals"] = np.isin(np.arange(ROWS), [SPLIT_AT - 1, ROWS - 1])
            file["priority"] = rng.random(ROWS)
    return folder


@pytest.fixture(scope="module")
def settings():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(f"PENSTOCK_{name.upper()}", value)
        yield


@pytest.fixture(scope="module")
def server(data, settings):
    with closing(open_backend(Target.parse(f"file://{data}"), DataSettings.load())) as backend:
        service = SamplerService(backend)
        with start("sampler", ServerSettings(), service.register) as running:
            yield running


@pytest.fixture
def remote(server):
    with penstock.open_sampler(server.target, retry_s=5) as client:
        yield client


@pytest.fixture
def embedded(data, settings):
    with penstock.open_sampler(f"file://{data}") as client:
        yield client


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield SamplerServiceStub(channel)


def whole(batch):
    arrays = {"frames": batch.frames, "mask": batch.mask, "ids": batch.transition_ids}
    return {name: values.tobytes() for name, values in (arrays | batch.columns).items()}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_gives_the_same_bytes_embedded_and_over_the_network(name, remote, embedded):
    plan = PLANS[name]
    for step in (0, 3):
        ours, theirs = remote.sample(plan, step), embedded.sample(plan, step)
        assert len(ours) == plan.batch_size * plan.window
        assert ours.window == theirs.window == plan.window
        assert whole(ours) == whole(theirs)


@pytest.mark.parametrize("name", PLANS)
def test_a_server_that_resolves_the_plan_sends_the_same_transitions(name, stub, embedded):
    plan = PLANS[name]
    request = pb.SampleRequest(
        plan=plan_to_message(plan), first_step=2, steps=2, accepted_codecs=ACCEPTED_CODECS
    )
    got = {2: [], 3: []}
    last = []
    for message in stub.Sample(request):
        got[message.step] += message.part.transition_ids
        last.append(message.last_part)
    for step, ids in got.items():
        assert ids == embedded.sample(plan, step).transition_ids.tolist()
    assert last.count(True) == 2
    assert last[-1]


def test_padding_repeats_the_last_transition_of_the_episode(remote, data):
    """Against the file: window 3 of 4 transitions that begins at row 3 of a 5 row episode."""
    plan = PLANS["windows of an epoch"]
    seen = set()
    for batch in remote.batches(plan, 0, stop_step=remote.view(plan).steps_per_epoch):
        for ids, mask, actions in zip(
            batch.windowed["transition_ids"],
            batch.windowed["mask"],
            batch.windowed["action"],
            strict=True,
        ):
            file, row = divmod(int(ids[0]), ROWS)
            last = SPLIT_AT - 1 if row < SPLIT_AT else ROWS - 1
            rows = [min(row + k, last) for k in range(3)]
            assert (ids - file * ROWS).tolist() == rows
            assert mask.tolist() == [row + k <= last for k in range(3)]
            with h5py.File(data / FILES[file]) as source:
                assert (actions == source["actions"][:][rows]).all()
            seen.add(int(ids[0]))
    assert seen == set(range(3 * ROWS))


def test_tensors_of_windows_have_an_axis_for_them(remote):
    tensors = to_tensors(remote.sample(PLANS["windows"], 0))
    assert tensors["frames"].shape == (6, 4, 2, 1, 6, 8, 3)
    assert tensors["reward"].shape == tensors["mask"].shape == (6, 4)
    assert tensors["mask"].dtype == torch.bool
    assert "mask" not in to_tensors(remote.sample(PLANS["a mixture"], 0))


def test_a_position_in_any_plan_survives_json(server, settings):
    plan = PLANS["everything"]
    begun = BatchDataset(server.target, plan, retry_s=5)
    steps = iter(begun)
    next(steps)
    state = json.loads(json.dumps(begun.state_dict()))
    expected = next(steps)["transition_ids"].tolist()
    steps.close()
    resumed = BatchDataset(server.target, plan, retry_s=5)
    resumed.load_state_dict(state)
    steps = iter(resumed)
    assert next(steps)["transition_ids"].tolist() == expected
    steps.close()
    assert len(json.dumps(state)) < 500


def test_priorities_that_training_changes_count_from_the_next_step(remote):
    plan = penstock.Plan(batch_size=16, split="all", sampling="weighted")
    priorities = Priorities(np.ones(remote.info.transitions))
    batches = remote.batches(plan, prefetch=1, weights=priorities)
    assert len(set(next(batches).transition_ids.tolist())) > 4
    priorities.update(np.arange(remote.info.transitions), 0.0)
    priorities.update([17], 2.0)
    next(batches)  # may have been drawn before the update
    assert set(next(batches).transition_ids.tolist()) == {17}
    batches.close()


def test_what_does_not_fit_is_refused_before_the_first_batch(remote, stub):
    weighted = penstock.Plan(batch_size=4, split="all", sampling="weighted")
    with pytest.raises(InvalidInput, match=r"no weights are given"):
        remote.batches(weighted)
    with pytest.raises(InvalidInput, match=r"weights are given, and plan\.weight_column is"):
        remote.batches(PLANS["by weights"], weights=np.ones(42))
    named = penstock.Plan(batch_size=4, sampling="weighted", weight_column="advantage")
    with pytest.raises(NotFound, match="'advantage': this dataset has priority"):
        remote.batches(named)
    with pytest.raises(InvalidInput, match=r"part 'lab/\*' has no transitions"):
        remote.batches(penstock.Plan(split="all", mixture=[("lab/*", 1.0)]))
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Sample(pb.SampleRequest(plan=plan_to_message(weighted), steps=1)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_files_that_a_mixture_leaves_out_are_said_once(remote, caplog):
    for step in range(3):
        remote.sample(PLANS["a mixture"], step)
    said = [record.message for record in caplog.records if "match no part" in record.message]
    assert said == [
        "1 of 3 files match no part of the mixture and are left out, the first is notes/x.hdf5"
    ]
