from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from prometheus_client import REGISTRY
from unit.sampler.recording import arrays, write

from penstock import Plan, SamplerClient, open_sampler
from penstock.client.part_messages import part_into_batch
from penstock.client.plan_messages import plan_to_message
from penstock.errors import Conflict, DataFault, InvalidInput, LimitExceeded
from penstock.server import ServerSettings, start
from penstock.targets import Target
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

SIZE = (128, 160)  # one transition is 360 KiB: two to a part
PLAN = Plan(batch_size=9, split="all")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        contents = arrays(20, terminals=[7], size=SIZE, seed=number)
        contents["observations/global_image"][:] = 40  # LZ4 gains on this one, not on noise
        write(folder / f"{number}.hdf5", contents)
    (folder / "bad.hdf5").write_text("no")
    return folder


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    backend = open_backend(Target.parse(f"file://{data}/*.hdf5"))
    service = SamplerService(backend, group_bytes=1 << 20, max_calls=8)
    with start("sampler", ServerSettings(), service.register) as server:
        yield server.address
    backend.close()


@pytest.fixture
def stub(address: str) -> Iterator[SamplerServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield SamplerServiceStub(channel)


@pytest.fixture
def remote(address: str) -> Iterator[SamplerClient]:
    with open_sampler(f"grpc://{address}", retry_s=5) as client:
        yield client


@pytest.fixture
def embedded(data: Path) -> Iterator[SamplerClient]:
    with open_sampler(f"file://{data}/*.hdf5") as client:
        yield client


def test_the_server_describes_what_an_embedded_target_describes(
    remote: SamplerClient, embedded: SamplerClient
) -> None:
    ours, theirs = remote.info, embedded.info
    assert ours.version == theirs.version
    assert (ours.files, ours.refused, ours.cameras) == (
        theirs.files,
        theirs.refused,
        theirs.cameras,
    )
    assert [file.reason for file in ours.refused] == ["NOT_HDF5"]
    assert (remote.episodes.split_key == embedded.episodes.split_key).all()
    for name, column in ours.statistics.items():
        np.testing.assert_array_equal(column.std, theirs.statistics[name].std)


@pytest.mark.parametrize("size", [None, (32, 40)])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_served_batches_equal_embedded_ones_to_the_byte(
    address: str, data: Path, size: tuple[int, int] | None, sampling: str
) -> None:
    plan = Plan.from_dict({"batch_size": 9, "split": "all", "sampling": sampling, "seed": 3})
    with (
        open_sampler(f"grpc://{address}", image_size=size, retry_s=5) as remote,
        open_sampler(f"file://{data}/*.hdf5", image_size=size) as embedded,
    ):
        for step in range(3):
            ours, theirs = remote.sample(plan, step), embedded.sample(plan, step)
            np.testing.assert_array_equal(ours.frames, theirs.frames)
            for name, values in ours.columns.items():
                np.testing.assert_array_equal(values, theirs.columns[name])


def test_a_thin_client_gets_whole_steps_in_parts(
    stub: SamplerServiceStub, embedded: SamplerClient
) -> None:
    request = pb.SampleRequest(
        plan=plan_to_message(PLAN),
        first_step=4,
        steps=2,
        accepted_codecs=[tb.CODEC_LZ4, tb.CODEC_RAW],
    )
    expected = {step: embedded.sample(PLAN, step) for step in (4, 5)}
    filled = {4: 0, 5: 0}
    closed: list[int] = []
    for response in stub.Sample(request):
        whole = expected[response.step]
        copy = embedded.fetch(whole.transition_ids)
        copy.frames[:] = 0
        assert response.part.first_row == filled[response.step]
        rows = part_into_batch(response.part, copy)
        part = slice(filled[response.step], filled[response.step] + rows)
        np.testing.assert_array_equal(copy.frames[part], whole.frames[part])
        filled[response.step] += rows
        if response.last_part:
            closed.append(response.step)
    assert filled == {4: 9, 5: 9}
    assert closed == [4, 5]


def test_parts_are_about_a_mebibyte_and_state_their_sizes(
    stub: SamplerServiceStub, remote: SamplerClient
) -> None:
    ids = list(range(11))
    request = pb.FetchRequest(
        dataset_version=remote.info.version,
        transition_ids=ids,
        accepted_codecs=[tb.CODEC_LZ4, tb.CODEC_RAW],
    )
    parts = [response.part for response in stub.Fetch(request)]
    assert [part.rows for part in parts] == [2, 2, 2, 2, 2, 1]
    assert [list(part.transition_ids) for part in parts] == [
        [0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10],
    ]  # fmt: skip
    for part in parts:
        assert part.frames.codec == tb.CODEC_LZ4
        assert part.frames.raw_size_bytes == part.rows * 2 * 3 * 128 * 160 * 3
        assert len(part.frames.data) < part.frames.raw_size_bytes * 0.7


def test_a_client_that_names_no_codec_gets_raw(
    stub: SamplerServiceStub, remote: SamplerClient
) -> None:
    request = pb.FetchRequest(dataset_version=remote.info.version, transition_ids=[1])
    (response,) = stub.Fetch(request)
    assert response.part.frames.codec == tb.CODEC_RAW
    assert len(response.part.frames.data) == response.part.frames.raw_size_bytes


def test_noise_goes_out_raw(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", arrays(30, size=SIZE))
    backend = open_backend(Target.parse(f"file://{tmp_path}/a.hdf5"))
    service = SamplerService(backend, group_bytes=4 << 20, max_calls=8)
    with start("sampler", ServerSettings(), service.register) as server:  # noqa: SIM117
        with open_sampler(server.target, retry_s=5) as client:
            batch = client.fetch(np.arange(30))
            assert client.transfer.wire_bytes == client.transfer.raw_bytes == batch.frames.nbytes
    backend.close()


@pytest.mark.parametrize("method", ["Fetch", "ListEpisodes", "Sample"])
def test_another_dataset_version_says_reopen(stub: SamplerServiceStub, method: str) -> None:
    request = {
        "Fetch": pb.FetchRequest(dataset_version="old", transition_ids=[1]),
        "ListEpisodes": pb.ListEpisodesRequest(dataset_version="old"),
        "Sample": pb.SampleRequest(dataset_version="old", plan=plan_to_message(PLAN), steps=1),
    }[method]
    with pytest.raises(grpc.RpcError) as caught:
        list(getattr(stub, method)(request))
    assert caught.value.code() == grpc.StatusCode.ABORTED
    assert "open the dataset again" in caught.value.details()


@pytest.mark.parametrize(
    ("request_fields", "words"),
    [
        ({"transition_ids": [40]}, "40: ids go from 0 to 39"),
        ({"transition_ids": [2**64 - 1]}, "ids go from 0 to 39"),
        ({"transition_ids": [0] * 65_537}, "at most 65536"),
        ({"transition_ids": [0], "frame_spec": {"height_px": 5000, "width_px": 5}}, "4096"),
        ({"transition_ids": [0], "frame_spec": {"height_px": 5}}, "both sides"),
    ],
)
def test_requests_out_of_range_are_refused(
    stub: SamplerServiceStub, remote: SamplerClient, request_fields: dict[str, object], words: str
) -> None:
    request = pb.FetchRequest(dataset_version=remote.info.version, **request_fields)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Fetch(request))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"steps": 1, "first_step": 2**60}, "below step"),
        ({"steps": 1, "plan": {"batch_size": 9, "rank": 4, "world": 2}}, "plan.rank"),
        ({"steps": 1, "plan": {"batch_size": 100, "sampling": 2, "split": 3}}, "larger than"),
    ],
)
def test_plans_that_do_not_fit_are_refused(
    stub: SamplerServiceStub, fields: dict[str, object], words: str
) -> None:
    request = pb.SampleRequest(**({"plan": plan_to_message(PLAN)} | fields))
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Sample(request))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


def test_a_transition_too_large_for_a_message_is_refused(address: str) -> None:
    client = open_sampler(f"grpc://{address}", image_size=(4096, 4096), retry_s=5)
    with client, pytest.raises(LimitExceeded, match="smaller images"):
        client.fetch(np.array([0]))


def test_errors_come_back_as_the_class_that_was_raised(remote: SamplerClient) -> None:
    with pytest.raises(InvalidInput, match="ids go from 0 to 39"):
        remote.fetch(np.array([99]))
    remote._backend._version = "old"
    with pytest.raises(Conflict):
        remote.fetch(np.array([1]))


def test_a_file_that_goes_away_is_named_counted_and_the_rest_is_served(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.hdf5", arrays())
    backend = open_backend(Target.parse(f"file://{tmp_path}/*.hdf5"))
    service = SamplerService(backend, group_bytes=1 << 20, max_calls=8)
    (tmp_path / "a.hdf5").unlink()
    labels = {"reason": "MISSING"}
    before = REGISTRY.get_sample_value("penstock_sampler_read_faults_total", labels) or 0
    with start("sampler", ServerSettings(), service.register) as server:  # noqa: SIM117
        with open_sampler(server.target, retry_s=5) as client:
            with pytest.raises(DataFault, match=r"a\.hdf5"):
                client.fetch(np.array([0]))
            assert client.fetch(np.array([15])).transition_ids.tolist() == [15]
    assert REGISTRY.get_sample_value("penstock_sampler_read_faults_total", labels) == before + 1
    backend.close()


def test_metrics_say_what_is_served_and_sent(remote: SamplerClient) -> None:
    names = ("transitions_total", "raw_bytes_total")

    def values() -> list[float]:
        return [REGISTRY.get_sample_value(f"penstock_sampler_{name}") or 0 for name in names]

    before = values()
    batch = remote.fetch(np.arange(4))
    sent, raw = (after - first for after, first in zip(values(), before, strict=True))
    assert (sent, raw) == (4, batch.frames.nbytes)
