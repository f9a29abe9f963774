"""The service on the wire: what a client meets that does not keep to the protocol."""

import os

import grpc
import numpy as np
import pytest
import xxhash
from penstock_checkpointer.service import CheckpointService

from penstock.client.channel import open_channel
from penstock.client.checkpoint.messages import upload_to_message
from penstock.client.errors import translated_errors
from penstock.errors import Corrupt, InvalidInput, NotFound
from penstock.server import ServerSettings, start
from penstock.targets import Target
from penstock.v1 import checkpoint_pb2 as pb
from penstock.v1.checkpoint_pb2_grpc import CheckpointServiceStub


@pytest.fixture
def stub(store):
    with start("checkpointer", ServerSettings(), CheckpointService(store).register) as server:
        channel = open_channel(Target.parse(server.target))
        yield CheckpointServiceStub(channel)
        channel.close()


def chunk(upload_id, data, offset=0, digest=None):
    return pb.UploadChunksRequest(
        upload_id=upload_id,
        offset_bytes=offset,
        data=data,
        xxh3_64=xxhash.xxh3_64_intdigest(data) if digest is None else digest,
    )


@pytest.fixture
def syncs(monkeypatch):
    """Size of the file at each fdatasync."""
    sizes = []
    original = os.fdatasync

    def fdatasync(handle):
        sizes.append(os.fstat(handle).st_size)
        original(handle)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return sizes


def test_only_what_is_synced_is_acknowledged_at_the_latest_at_the_end(stub, content, syncs):
    state = {"w": np.random.default_rng(0).integers(0, 256, 20 << 20, np.uint8)}
    offered = content(state)
    upload_id = stub.BeginUpload(upload_to_message(offered.request)).upload_id
    starts = range(0, len(offered.data), 1 << 20)
    pieces = [(place, offered.data[place : place + (1 << 20)]) for place in starts]
    acknowledged = []
    for answer in stub.UploadChunks(chunk(upload_id, data, place) for place, data in pieces):
        acknowledged.append(answer.received_bytes)
        assert answer.received_bytes in syncs
    assert acknowledged == [8 << 20, 16 << 20, len(offered.data)]
    assert syncs == acknowledged


def test_what_a_broken_stream_left_is_synced_before_it_is_acknowledged(stub, content, syncs):
    offered = content({"x": "y" * 3000})
    upload_id = stub.BeginUpload(upload_to_message(offered.request)).upload_id
    pieces = [chunk(upload_id, offered.data[:1000]), chunk(upload_id, b"", 1000, digest=1)]
    with pytest.raises(Corrupt), translated_errors("test"):
        list(stub.UploadChunks(iter(pieces)))
    assert syncs == []
    assert stub.BeginUpload(upload_to_message(offered.request)).received_bytes == 1000
    assert syncs == [1000]


def test_chunks_of_two_uploads_in_one_stream_are_refused(stub, content):
    offered = content({"x": 1})
    upload_id = stub.BeginUpload(upload_to_message(offered.request)).upload_id
    pieces = [chunk(upload_id, offered.data[:10]), chunk("x", offered.data[10:], 10)]
    with pytest.raises(InvalidInput, match="in one stream"), translated_errors("test"):
        list(stub.UploadChunks(iter(pieces)))


def test_content_that_is_stored_is_answered_as_received(stub, content):
    offered = content({"x": "y" * 3000})
    upload_id = stub.BeginUpload(upload_to_message(offered.request)).upload_id
    for _ in range(2):
        answers = list(stub.UploadChunks(iter([chunk(upload_id, offered.data)])))
        assert [answer.received_bytes for answer in answers] == [len(offered.data)]
        stub.CommitUpload(pb.CommitUploadRequest(upload_id=upload_id))
    checkpoint = stub.CommitUpload(pb.CommitUploadRequest(upload_id=upload_id)).checkpoint
    assert checkpoint.digest.xxh3_128 == xxhash.xxh3_128_digest(offered.data)
    again = stub.BeginUpload(upload_to_message(offered.request))
    assert again.already_committed
    assert again.received_bytes == len(offered.data)


def test_chunk_that_does_not_match_its_hash_is_data_loss(stub, content):
    upload_id = stub.BeginUpload(upload_to_message(content({"x": 1}).request)).upload_id
    with pytest.raises(Corrupt, match="send it again"), translated_errors("test"):
        list(stub.UploadChunks(iter([chunk(upload_id, b"data", digest=1)])))


def test_chunk_beyond_a_mebibyte_is_refused(stub, content):
    upload_id = stub.BeginUpload(upload_to_message(content({"x": 1}).request)).upload_id
    with pytest.raises(InvalidInput, match="at most 1048576"), translated_errors("test"):
        list(stub.UploadChunks(iter([chunk(upload_id, b"x" * ((1 << 20) + 1))])))


def test_field_that_is_wrong_is_named(stub, content):
    with pytest.raises(InvalidInput) as refused, translated_errors("test"):
        stub.BeginUpload(pb.BeginUploadRequest(run="../etc", step=1))
    assert refused.value.field == "run"
    with pytest.raises(InvalidInput) as refused, translated_errors("test"):
        stub.BeginUpload(pb.BeginUploadRequest(run="run", step=1))
    assert refused.value.field == "digest"
    with pytest.raises(InvalidInput) as refused, translated_errors("test"):
        stub.BeginUpload(pb.BeginUploadRequest(run="run", step=(1 << 64) - 1))
    assert refused.value.field == "step"


def test_commit_of_nothing_and_of_half_tell_apart(stub, content):
    with pytest.raises(NotFound), translated_errors("test"):
        stub.CommitUpload(pb.CommitUploadRequest(upload_id="x"))
    upload_id = stub.BeginUpload(upload_to_message(content({"x": 1}).request)).upload_id
    with pytest.raises(grpc.RpcError) as refused:
        stub.CommitUpload(pb.CommitUploadRequest(upload_id=upload_id))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    stub.AbortUpload(pb.AbortUploadRequest(upload_id=upload_id))
    stub.AbortUpload(pb.AbortUploadRequest(upload_id=upload_id))


def test_download_starts_where_it_is_asked_to_and_ends_there(stub, save, content):
    state = {"x": "y" * 3000}
    save(state)
    data = content(state).data
    ref = pb.CheckpointRef(run="run")

    def download(**options):
        request = pb.DownloadRequest(checkpoint=ref, **options)
        return b"".join(message.data for message in stub.Download(request))

    assert download() == data
    assert download(offset_bytes=100) == data[100:]
    assert download(offset_bytes=100, size_bytes=7) == data[100:107]
    assert download(offset_bytes=len(data)) == b""
    with pytest.raises(InvalidInput, match="is beyond the"), translated_errors("test"):
        download(offset_bytes=len(data) + 1)


def test_metrics_tell_what_the_store_holds_and_what_happened(store, save, root):
    from penstock_checkpointer.metrics import StoreCollector

    info = save({"x": 1})
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in StoreCollector(store, root).collect()
        for sample in metric.samples
    }
    assert found["penstock_checkpointer_events_total", "checkpoints_committed"] == 1
    assert found["penstock_checkpointer_checkpoints", "run"] == 1
    assert found["penstock_checkpointer_stored_bytes", "run"] == info.size_bytes
    assert found["penstock_checkpointer_disk_free_bytes",] > 0
