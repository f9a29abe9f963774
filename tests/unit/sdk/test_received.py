"""Messages are taken apart as protobuf would parse them, however they were put together."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from penstock.client.sampler.received import parse_fetched
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

_U32 = st.lists(st.integers(0, 2**32 - 1), max_size=5)


def response(data: st.DataObject) -> pb.FetchResponse:
    """Any part, with observations or without, with or without data in them."""
    part = pb.BatchPart(
        first_row=data.draw(st.integers(0, 2**31)),
        rows=data.draw(st.integers(0, 300)),
        transition_ids=data.draw(st.lists(st.integers(0, 2**60), max_size=5)),
        columns=[tb.Tensor(name="joint", shape=[2, 3], data=b"x" * 24)],
    )
    if data.draw(st.booleans()):
        part.observations.SetInParent()
        if data.draw(st.booleans()):
            part.observations.MergeFrom(
                pb.Observations(
                    count=2,
                    height_px=data.draw(st.integers(0, 4096)),
                    image_bytes=data.draw(_U32),
                    current=data.draw(_U32),
                    data=data.draw(st.binary(max_size=400)),
                )
            )
    return pb.FetchResponse(part=part)


@given(st.data())
def test_a_message_taken_apart_is_the_message_that_protobuf_parses(data: st.DataObject) -> None:
    sent = response(data)
    received = parse_fetched(sent.SerializeToString())
    assert bytes(received.data) == sent.part.observations.data
    whole = pb.BatchPart()
    whole.CopyFrom(received.part)
    if received.data:
        whole.observations.data = bytes(received.data)
    assert whole == sent.part
    assert received.part.HasField("observations") == sent.part.HasField("observations")


def test_the_data_stays_where_it_arrived() -> None:
    sent = pb.FetchResponse()
    sent.part.observations.data = b"frames" * 1000
    message = sent.SerializeToString()
    received = parse_fetched(message)
    assert received.data.obj is message
    assert received.part.observations.data == b""


def test_fields_of_a_later_version_are_passed_over() -> None:
    sent = pb.FetchResponse()
    sent.part.rows = 3
    sent.part.observations.data = b"frames"
    for unknown in (
        b"\xf8\x07\x05",
        b"\xfa\x07\x02ab",
        b"\xf9\x07" + bytes(8),
        b"\xfd\x07" + bytes(4),
    ):
        received = parse_fetched(unknown + sent.SerializeToString() + unknown)
        assert (received.part.rows, bytes(received.data)) == (3, b"frames")


@given(st.data(), st.integers(0, 1000), st.binary(max_size=6))
def test_damaged_messages_are_refused_or_parsed_and_nothing_else(
    data: st.DataObject, at: int, change: bytes
) -> None:
    message = bytearray(response(data).SerializeToString())
    at %= len(message) + 1
    message[at : at + len(change)] = change
    try:
        received = parse_fetched(bytes(message))
    except DecodeError:
        return
    assert len(received.data) <= len(message)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_cut_message_is_refused(cut: int) -> None:
    sent = pb.FetchResponse()
    sent.part.observations.data = b"frames" * 10
    with pytest.raises(DecodeError):
        parse_fetched(sent.SerializeToString()[:-cut])
