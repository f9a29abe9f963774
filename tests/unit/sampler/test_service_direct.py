"""What the service answers at the direct port, before it goes over a connection."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_sampler.backend import Hdf5Backend
from penstock_sampler.service import SamplerService
from unit.sampler.cache.cached import fill, open_dataset
from unit.sampler.recording import arrays, write

from penstock.client.messages import ACCEPTED_CODECS
from penstock.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    PenstockError,
    Unsupported,
)
from penstock.server import ServerSettings, start
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

SIZE = (128, 160)  # an observation is 180 KiB
IDS = [19, 0, 7, 8, 7, 6, 21, 22, 39, 25]


class Caller:
    """Who asks, and whether it was told to go."""

    def __init__(self) -> None:
        self.cancelled = False

    def peer(self) -> str:
        return "direct:test"

    def is_active(self) -> bool:
        return not self.cancelled

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        write(folder / f"{number}.hdf5", arrays(20, terminals=[7], size=SIZE, seed=number))
    return folder


@pytest.fixture(scope="module")
def backend(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdf5Backend]:
    """Everything is cached as it is stored, by a codec that is not raw."""
    found = open_dataset(data / "*.hdf5", tmp_path_factory.mktemp("cache"), codec="bitplanes")
    fill(found)
    yield found
    found.close()


@pytest.fixture(scope="module")
def service(backend: Hdf5Backend) -> SamplerService:
    return SamplerService(backend)


def request_for(backend: Hdf5Backend, ids: Any = IDS, **fields: Any) -> bytes:
    fields = {
        "dataset_version": backend.info().version,
        "accepted_codecs": ACCEPTED_CODECS,
        **fields,
    }
    return pb.FetchRequest(transition_ids=ids, **fields).SerializeToString()


def answered(
    service: SamplerService, request: bytes, frame_bytes: int = 1 << 24
) -> list[pb.BatchPart]:
    """The parts, as they arrive at the other end of a socket, each behind its size.

    Args:
        service: Who answers.
        request: What to.
        frame_bytes: What a frame takes at most; each begins with a mark.
    """
    ours, theirs = socket.socketpair()
    found = bytearray()

    def receive() -> None:
        while piece := theirs.recv(1 << 16):
            found.extend(piece)

    receiving = threading.Thread(target=receive)
    receiving.start()
    try:
        with ours:
            for message in service.answer(request, Caller()):
                lefts: list[int] = []

                def frame(left: int, lefts: list[int] = lefts) -> tuple[bytes, int]:
                    lefts.append(left)
                    return b"frame", min(left, frame_bytes)

                size = len(message)
                assert size <= 4 << 20  # what clients of gRPC take
                message.send(ours, struct.pack("<I", size), frame)
                assert lefts == list(range(size + 4, 0, -frame_bytes))
    finally:
        receiving.join()
        theirs.close()
    parts: list[pb.BatchPart] = []
    at = 0

    def take(left: int) -> bytes:
        nonlocal at
        assert found[at : at + 5] == b"frame"
        at += 5 + min(left, frame_bytes)
        return bytes(found[at - min(left, frame_bytes) : at])

    while at < len(found):
        (size,) = struct.unpack_from("<I", found, at + 5)
        message = b"".join(take(left) for left in range(size + 4, 0, -frame_bytes))
        parts.append(pb.FetchResponse.FromString(message[4:]).part)
    return parts


def images_of(parts: list[pb.BatchPart]) -> list[list[bytes]]:
    """For each row the encoded images of its current and of its next observation."""
    rows: list[list[bytes]] = []
    for part in parts:
        shown = part.observations
        ends = np.cumsum(np.array(shown.image_bytes).reshape(shown.count, -1).sum(axis=1)).tolist()
        images = [shown.data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        rows += [
            [images[now], images[after]]
            for now, after in zip(shown.current, shown.next, strict=True)
        ]
    return rows


def columns_of(parts: list[pb.BatchPart]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in parts:
        for tensor in part.columns:
            found[tensor.name] = found.get(tensor.name, b"") + tensor.data
    return found


@pytest.mark.parametrize("frame_bytes", [5, 1000, 16_384, 200_000])
def test_messages_are_the_same_in_frames_of_any_size(
    service: SamplerService, backend: Hdf5Backend, frame_bytes: int
) -> None:
    ids = IDS[:2] if frame_bytes < 100 else [*IDS, *range(40)]
    request = request_for(backend, ids)
    assert answered(service, request, frame_bytes) == answered(service, request)


def test_an_answer_holds_what_fetch_gives_and_the_hash_of_every_observation(
    service: SamplerService, backend: Hdf5Backend
) -> None:
    ids = [*IDS, *range(40)]
    request = request_for(backend, ids)
    parts = answered(service, request)
    assert len(parts) > 1
    row = 0
    for part in parts:
        shown = part.observations
        assert (part.first_row, part.rows) == (row, len(part.transition_ids))
        assert sum(shown.image_bytes) == len(shown.data) <= 4 << 20
        begin = 0
        for number in range(shown.count):
            size = sum(shown.image_bytes[3 * number : 3 * number + 3])
            image = shown.data[begin : begin + size]
            assert xxhash.xxh3_64_intdigest(image, shown.hash_seeds[number]) == shown.hashes[number]
            begin += size
        row += part.rows
    assert [each for part in parts for each in part.transition_ids] == ids
    with start("sampler", ServerSettings(), service.register) as server:  # noqa: SIM117
        with grpc.insecure_channel(server.address) as channel:
            stream = SamplerServiceStub(channel).Fetch(pb.FetchRequest.FromString(request))
            over_grpc = [message.part for message in stream]
    assert images_of(parts) == images_of(over_grpc)
    assert columns_of(parts) == columns_of(over_grpc)
    # Row 7 of each file is terminal: it shows its observation twice, the others two of them.
    for images, transition in zip(images_of(parts), ids, strict=True):
        assert (images[0] == images[1]) == (transition % 20 == 7)
    assert not over_grpc[0].observations.hashes


@pytest.mark.parametrize(
    ("fields", "error", "reason"),
    [
        ({"without_frames": True}, Unsupported, "NOT_CACHED"),
        ({"accepted_codecs": [tb.CODEC_RAW]}, Unsupported, "NOT_CACHED"),
        ({"frame_spec": pb.FrameSpec(height_px=9, width_px=9)}, Unsupported, "NOT_CACHED"),
        ({"ids": [40]}, InvalidInput, "INVALID_INPUT"),
        ({"ids": [0] * 65_537}, InvalidInput, "INVALID_INPUT"),
        ({"ids": [2**64 - 1]}, InvalidInput, "INVALID_INPUT"),
        ({"dataset_version": "old"}, Conflict, ""),
        ({"dataset_version": ""}, Conflict, ""),
    ],
)
def test_what_is_not_answered_has_the_reason_of_fetch(
    service: SamplerService,
    backend: Hdf5Backend,
    fields: dict[str, Any],
    error: type[PenstockError],
    reason: str,
) -> None:
    with pytest.raises(error) as caught:
        answered(service, request_for(backend, **fields))
    assert caught.value.reason == reason or not reason


@pytest.mark.parametrize("side", [4096, 0])
def test_transitions_that_no_message_holds_are_refused_and_not_cached_for(
    service: SamplerService, backend: Hdf5Backend, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    if not side:
        # Of which 1 MiB is a margin: less than the 360 KiB of a transition is left.
        monkeypatch.setattr("penstock_sampler.service.MAX_MESSAGE_BYTES", (1 << 20) + 300_000)
    spec = pb.FrameSpec(height_px=side, width_px=side)
    looked_for: list[Any] = []
    monkeypatch.setattr(Hdf5Backend, "cached_observations", lambda *found: looked_for.append(found))
    with pytest.raises(LimitExceeded, match="ask for smaller images") as caught:
        answered(service, request_for(backend, [0], frame_spec=spec))
    assert caught.value.reason == "TRANSITION_TOO_LARGE"
    assert looked_for == []


def test_what_no_memory_holds_is_asked_of_the_disk_before_it_is_sent(
    service: SamplerService, backend: Hdf5Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    waited_for: list[tuple[int, int]] = []
    preadv, sendfile = os.preadv, os.sendfile

    def read(descriptor: int, into: Any, offset: int, *without_waiting: int) -> int:
        if without_waiting:
            raise BlockingIOError
        return preadv(descriptor, into, offset)

    def advise(descriptor: int, offset: int, size: int, _: int) -> None:
        asked.append((descriptor, offset, offset + size))

    def send(to: int, descriptor: int, offset: int, size: int) -> int:
        if not any(d == descriptor and a <= offset and offset + size <= b for d, a, b in asked):
            waited_for.append((descriptor, offset))
        return sendfile(to, descriptor, offset, size)

    monkeypatch.setattr(os, "preadv", read)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(os, "sendfile", send)
    last_first = list(reversed(range(0, backend.info().transitions, 2)))
    assert len(answered(service, request_for(backend, last_first))) > 1
    assert asked
    assert not waited_for


def test_a_place_is_held_while_an_answer_is_sent_and_free_afterwards(
    backend: Hdf5Backend,
) -> None:
    service = SamplerService(backend, max_calls=1)
    request = request_for(backend)
    first = service.answer(request, Caller())
    next(first)
    with pytest.raises(LimitExceeded):
        next(service.answer(request, Caller()))
    first.close()
    assert len(answered(service, request)) > 0


@given(garbage=st.binary(max_size=300))
def test_garbage_is_refused_or_answered(service: SamplerService, garbage: bytes) -> None:
    with pytest.raises(PenstockError):
        answered(service, garbage)


@settings(max_examples=60)
@given(
    ids=st.lists(st.integers(0, 60) | st.integers(0, 2**64 - 1), max_size=12),
    codecs=st.lists(st.sampled_from([0, 1, 2, 3, 4, 99]), max_size=4),
    side=st.sampled_from([0, 1, 128, 160, 4096, 4097, 2**32 - 1]),
    columns=st.sampled_from(["with frames", "alone"]),
)
def test_any_request_is_answered_in_full_or_refused(
    service: SamplerService,
    backend: Hdf5Backend,
    ids: list[int],
    codecs: list[int],
    side: int,
    columns: str,
) -> None:
    request = request_for(
        backend,
        ids,
        accepted_codecs=codecs,
        frame_spec=pb.FrameSpec(height_px=side, width_px=side),
        without_frames=columns == "alone",
    )
    try:
        parts = answered(service, request)
    except PenstockError:
        return
    assert [each for part in parts for each in part.transition_ids] == ids
