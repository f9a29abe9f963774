from __future__ import annotations

import pytest

from penstock.server.joined import joined
from penstock.v1 import sampler_pb2 as pb


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_joined_bytes_parse_as_the_message_they_stand_for(size: int) -> None:
    data = bytes(i % 251 for i in range(size))

    def fill(into: memoryview) -> None:
        assert len(into) == size
        into[: size // 3] = data[: size // 3]
        into[size // 3 :] = data[size // 3 :]

    envelope = pb.SampleResponse(step=7, last_part=True)
    part = pb.BatchPart(first_row=3, rows=2, transition_ids=[5, 6])
    shown = pb.Observations(count=1, image_bytes=[size], current=[0, 0], next=[0, 0])
    encoded = joined(
        [
            (envelope, pb.SampleResponse.PART_FIELD_NUMBER),
            (part, pb.BatchPart.OBSERVATIONS_FIELD_NUMBER),
            (shown, pb.Observations.DATA_FIELD_NUMBER),
        ],
        size,
        fill,
    )
    expected = pb.SampleResponse(step=7, last_part=True, part=part)
    expected.part.observations.CopyFrom(shown)
    expected.part.observations.data = data
    assert pb.SampleResponse.FromString(encoded) == expected
