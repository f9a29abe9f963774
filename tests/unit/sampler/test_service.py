from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tenacity
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from penstock_sampler import service
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from prometheus_client import REGISTRY
from unit.sampler.recording import arrays, write

from penstock import Plan, SamplerClient, open_sampler
from penstock.client.errors import translated_errors
from penstock.client.messages import tensor_from_message
from penstock.client.part_messages import part_into_batch
from penstock.client.plan_messages import plan_to_message
from penstock.errors import Conflict, DataFault, InvalidInput, LimitExceeded, NotFound
from penstock.server import RunningServer, ServerSettings, start
from penstock.targets import Target
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

SIZE = (128, 160)  # one transition is 360 KiB
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


@contextlib.contextmanager
def serving(data: Path, **options: Any) -> Iterator[RunningServer]:
    """A server over ``data``."""
    backend = open_backend(Target.parse(f"file://{data}/*.hdf5"))
    service = SamplerService(backend, **options)
    with start("sampler", ServerSettings(), service.register) as server:
        yield server
    backend.close()


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    with serving(data, max_calls=8) as server:
        yield server.address


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


def fetch(
    stub: SamplerServiceStub, version: str, ids: list[int], **fields: Any
) -> list[pb.BatchPart]:
    request = pb.FetchRequest(dataset_version=version, transition_ids=ids, **fields)
    return [response.part for response in stub.Fetch(request)]


@pytest.mark.parametrize("codec", [tb.CODEC_RAW, tb.CODEC_LZ4, tb.CODEC_BITPLANES])
def test_parts_stay_below_their_size_and_hold_every_observation_once(
    stub: SamplerServiceStub,
    remote: SamplerClient,
    codec: tb.Codec,
) -> None:
    image = 128 * 160 * 3
    # Rows 0 to 6 show observations 0 to 7; row 7 is terminal and shows itself twice.
    parts = fetch(stub, remote.info.version, list(range(8)), accepted_codecs=[codec])
    assert sum(part.rows for part in parts) == 8
    assert [each for part in parts for each in part.transition_ids] == list(range(8))
    row = 0
    for part in parts:
        found = part.observations
        shown = {*found.current, *found.next}
        assert part.first_row == row
        assert len(found.current) == len(found.next) == part.rows
        assert shown == set(range(found.count))
        distinct = {row + i for i in range(part.rows)} | {row + part.rows}
        assert found.count == len(distinct - {8})
        assert len(found.image_bytes) == found.count * 3
        assert sum(found.image_bytes) == len(found.data) <= 1 << 20
        assert found.codec == codec
        row += part.rows
    if codec == tb.CODEC_RAW:
        # Three cameras: five observations are 900 KiB, six would be 1080.
        assert [part.rows for part in parts] == [4, 4]
        assert set(parts[0].observations.image_bytes) == {image}


def test_a_client_that_names_no_codec_gets_raw(
    stub: SamplerServiceStub, remote: SamplerClient
) -> None:
    (part,) = fetch(stub, remote.info.version, [1])
    assert part.observations.codec == tb.CODEC_RAW
    assert len(part.observations.data) == 2 * 3 * 128 * 160 * 3


def test_columns_come_alone_when_frames_are_read_elsewhere(
    stub: SamplerServiceStub, remote: SamplerClient, embedded: SamplerClient
) -> None:
    ids = [3, 39, 3, 7]
    (part,) = fetch(stub, remote.info.version, ids, without_frames=True)
    assert not part.HasField("observations")
    assert list(part.transition_ids) == ids
    expected = embedded.fetch(np.array(ids)).columns
    found = {tensor.name: tensor_from_message(tensor) for tensor in part.columns}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("without_frames", [False, True])
def test_groups_of_rows_make_one_answer(
    stub: SamplerServiceStub,
    remote: SamplerClient,
    embedded: SamplerClient,
    monkeypatch: pytest.MonkeyPatch,
    *,
    without_frames: bool,
) -> None:
    ids = [3, 39, 3, 7, 0, 0, 12]
    monkeypatch.setattr(service, "GROUP_ROWS", 3)
    parts = fetch(stub, remote.info.version, ids, without_frames=without_frames)
    assert [(part.first_row, part.rows) for part in parts] == [(0, 3), (3, 3), (6, 1)]
    assert [each for part in parts for each in part.transition_ids] == ids
    expected = embedded.fetch(np.array(ids))
    for name, values in expected.columns.items():
        found = [tensor_from_message(t) for part in parts for t in part.columns if t.name == name]
        np.testing.assert_array_equal(np.concatenate(found), values)
    np.testing.assert_array_equal(remote.fetch(np.array(ids)).frames, expected.frames)


def test_the_last_part_of_a_step_is_that_of_its_last_group(
    stub: SamplerServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "GROUP_ROWS", 4)
    request = pb.SampleRequest(plan=plan_to_message(PLAN), first_step=4, steps=2)
    told = [(each.step, each.part.first_row, each.last_part) for each in stub.Sample(request)]
    assert [row for _, row, _ in told if row % 4 == 0] == [0, 4, 8] * 2
    assert [(step, last) for step, row, last in told if row == 8] == [(4, True), (5, True)]
    assert sum(last for _, _, last in told) == 2


def test_a_forced_codec_is_announced_and_used(data: Path) -> None:
    with serving(data, codec="lz4") as server, open_sampler(server.target, retry_s=5) as client:
        assert client.info.codecs == ("lz4", "raw")
        with grpc.insecure_channel(server.address) as channel:
            stub = SamplerServiceStub(channel)
            accepted = [tb.CODEC_RAW, tb.CODEC_BITPLANES, tb.CODEC_LZ4]
            (part,) = fetch(stub, client.info.version, [1], accepted_codecs=accepted)
            assert part.observations.codec == tb.CODEC_LZ4
            # Whoever cannot decode it is served all the same.
            (part,) = fetch(stub, client.info.version, [1], accepted_codecs=[tb.CODEC_RAW])
            assert part.observations.codec == tb.CODEC_RAW


def test_files_come_with_moments_and_digest(
    stub: SamplerServiceStub, embedded: SamplerClient
) -> None:
    files = [file for message in stub.ListFiles(pb.ListFilesRequest()) for file in message.files]
    assert [file.file_id for file in files] == ["0.hdf5", "1.hdf5"]
    for ours, theirs in zip(files, embedded.info.files, strict=True):
        assert (ours.digest, ours.transitions) == (theirs.digest, 20)
        assert ours.moments["action"].count == 20
        assert list(ours.moments["joint"].mean) == theirs.moments["joint"].mean.tolist()


class WeightedBackend:
    """A backend whose transitions have weights."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def weights(self, column: str) -> np.ndarray:
        if column != "priority":
            raise NotFound(f"weight column {column!r}: there is only 'priority'")
        return np.arange(150_000, dtype=np.float32)


def test_weights_come_in_chunks(data: Path) -> None:
    backend = WeightedBackend(open_backend(Target.parse(f"file://{data}/*.hdf5")))
    with start("sampler", ServerSettings(), SamplerService(backend).register) as server:  # noqa: SIM117
        with grpc.insecure_channel(server.address) as channel:
            stub = SamplerServiceStub(channel)
            messages = list(stub.ListWeights(pb.ListWeightsRequest(column="priority")))
            assert [message.first_transition for message in messages] == [0, 65_536, 131_072]
            together = np.concatenate([message.weights for message in messages])
            np.testing.assert_array_equal(together, np.arange(150_000))
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.ListWeights(pb.ListWeightsRequest(column="other")))
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    backend.close()


def test_status_counts_what_was_sent(data: Path) -> None:
    with serving(data) as server, grpc.insecure_channel(server.address) as channel:
        stub = SamplerServiceStub(channel)
        described = stub.GetDataset(pb.GetDatasetRequest())
        version = described.dataset.version
        before = stub.GetStatus(pb.GetStatusRequest())
        assert (before.transitions_sent, before.fetch_p50_s) == (0, 0.0)
        parts = fetch(stub, version, [0, 1, 9])
        after = stub.GetStatus(pb.GetStatusRequest())
    sent = sum(len(part.observations.data) for part in parts)
    assert after.replica_id == before.replica_id == described.replica_id != 0
    assert after.dataset_version == version
    assert (after.transitions_sent, after.sent_bytes, after.raw_bytes) == (3, sent, sent)
    assert (after.files, after.refused_files, after.calls_in_flight) == (2, 1, 0)
    assert 0 < after.fetch_p50_s <= after.fetch_p99_s < after.uptime_s
    assert after.codec == tb.CODEC_RAW
    assert after.resident_bytes > 10 << 20


def test_replicas_tell_themselves_apart(data: Path) -> None:
    ids = set()
    for _ in range(2):
        with serving(data) as server, grpc.insecure_channel(server.address) as channel:
            ids.add(SamplerServiceStub(channel).GetDataset(pb.GetDatasetRequest()).replica_id)
    assert len(ids) == 2


def test_streams_beyond_the_limit_are_told_when_to_come_back(data: Path) -> None:
    with serving(data, max_calls=1) as server, grpc.insecure_channel(server.address) as channel:
        stub = SamplerServiceStub(channel)
        version = stub.GetDataset(pb.GetDatasetRequest()).dataset.version
        endless = stub.Sample(pb.SampleRequest(plan=plan_to_message(PLAN), steps=10**6))
        next(endless)
        with pytest.raises(grpc.RpcError) as caught:
            fetch(stub, version, [1])
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        details = rpc_status.from_call(caught.value).details
        assert any(detail.Unpack(retry) for detail in details)
        assert 0 < retry.retry_delay.ToMilliseconds() <= 1000
        # Others are answered, and the SDK's client waits for its turn.
        assert stub.GetStatus(pb.GetStatusRequest()).calls_in_flight == 1
        with open_sampler(server.target, retry_s=20) as client:
            endless.cancel()
            assert client.fetch(np.array([5])).transition_ids.tolist() == [5]


def test_a_client_that_stops_reading_loses_its_stream_and_frees_its_place(data: Path) -> None:
    before = REGISTRY.get_sample_value("penstock_sampler_stalled_streams_total") or 0
    with serving(data, max_calls=1, stall_s=0.2) as server:  # noqa: SIM117
        with grpc.insecure_channel(server.address) as channel:
            stub = SamplerServiceStub(channel)
            version = stub.GetDataset(pb.GetDatasetRequest()).dataset.version
            stuck = stub.Sample(pb.SampleRequest(plan=plan_to_message(PLAN), steps=10**6))
            next(stuck)
            with open_sampler(server.target, retry_s=30) as client:
                assert len(client.fetch(np.array([5]))) == 1
            # The client has its row a moment before the server has its place back.
            patiently = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(grpc.RpcError),
                stop=tenacity.stop_after_delay(30),
                wait=tenacity.wait_fixed(0.02),
            )
            assert len(patiently(fetch, stub, version, [1])) == 1
            with pytest.raises(grpc.RpcError) as caught:
                list(stuck)
            assert caught.value.code() == grpc.StatusCode.CANCELLED
    after = REGISTRY.get_sample_value("penstock_sampler_stalled_streams_total")
    assert after >= before + 1  # on a busy machine, others may wait for so long too


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


def test_errors_come_back_as_the_class_that_was_raised(stub: SamplerServiceStub) -> None:
    version = stub.GetDataset(pb.GetDatasetRequest()).dataset.version
    with pytest.raises(InvalidInput, match="ids go from 0 to 39"), translated_errors("sampler"):
        fetch(stub, version, [99])
    with pytest.raises(Conflict, match="'old' is asked for"), translated_errors("sampler"):
        fetch(stub, "old", [1])


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
    names = ("transitions_total", "raw_bytes_total", "fetch_seconds_count")

    def values() -> list[float]:
        return [REGISTRY.get_sample_value(f"penstock_sampler_{name}") or 0 for name in names]

    @tenacity.retry(wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_delay(10))
    def check() -> None:
        sent, raw, calls = (after - first for after, first in zip(values(), before, strict=True))
        # Four rows in a line show five observations of three cameras.
        assert (sent, raw, calls) == (4, 5 * 3 * 128 * 160 * 3, 1)

    before = values()
    remote.fetch(np.arange(4))
    check()  # the server counts a call when it has ended, which no client waits for
