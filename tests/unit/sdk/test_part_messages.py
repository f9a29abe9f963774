import numpy as np
import pytest

from penstock.batch import Batch, FrameSpec
from penstock.client.part_messages import (
    observations_to_message,
    part_into_batch,
    part_to_message,
)
from penstock.codecs import encode_images
from penstock.dataset import Camera, DatasetInfo
from penstock.errors import Corrupt, InvalidInput
from penstock.v1 import tensor_pb2 as tb

HEIGHT, WIDTH, CAMERAS = 6, 5, 2
INFO = DatasetInfo(
    version="v",
    cameras=(Camera("left", HEIGHT, WIDTH), Camera("global", HEIGHT, WIDTH)),
    joint_dim=3,
    action_dim=2,
    transitions=100,
    episodes=4,
    files=(),
)
# Two neighbours of one episode, a terminal row, and a row of elsewhere: six observations.
CURRENT, FOLLOWING = np.array([0, 1, 3, 4]), np.array([1, 2, 3, 5])


def pictures(count=6):
    shape = (count, CAMERAS, HEIGHT, WIDTH, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def sent(batch, first_row, codec="raw"):
    data, sizes = encode_images(codec, pictures().reshape(-1, HEIGHT, WIDTH, 3))
    part = part_to_message(batch, first_row)
    sizes = sizes.reshape(-1, CAMERAS)
    shown = observations_to_message(codec, (HEIGHT, WIDTH), sizes, CURRENT, FOLLOWING)
    part.observations.CopyFrom(shown)
    part.observations.data = data
    return part


def filled_batch(size=4):
    rng = np.random.default_rng(0)
    batch = Batch.allocate(size, INFO, FrameSpec())
    batch.transition_ids[:] = rng.integers(0, 100, size)
    for name, values in batch.columns.items():
        values[:] = rng.random(values.shape) > 0.5 if name == "terminal" else rng.random()
    return batch


@pytest.mark.parametrize("codec", ["raw", "lz4", "bitplanes", "bitplanes_lz4"])
def test_a_part_fills_its_rows_and_no_others(codec):
    source, out = filled_batch(), Batch.allocate(6, INFO, FrameSpec())
    out.transition_ids[:] = 0
    out.transition_ids[1:5] = source.transition_ids
    out.frames[:] = 99
    assert part_into_batch(sent(source, 1, codec), out) == 4
    for row, (current, following) in enumerate(zip(CURRENT, FOLLOWING, strict=True)):
        assert (out.frames[1 + row, 0] == pictures()[current]).all()
        assert (out.frames[1 + row, 1] == pictures()[following]).all()
    assert (out.frames[[0, 5]] == 99).all()
    for name, values in source.columns.items():
        assert (out.columns[name][1:5] == values).all()


def test_an_observation_that_rows_share_travels_once():
    part = sent(filled_batch(), 0)
    assert len(part.observations.data) == pictures().nbytes
    assert part.observations.count == 6 < 2 * len(CURRENT)


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: setattr(part, "first_row", 3),
        lambda part: setattr(part, "rows", 0),
        lambda part: setattr(part, "rows", 2**31),
        lambda part: part.transition_ids.append(1),
        lambda part: part.columns.pop(),
        lambda part: part.ClearField("observations"),
        lambda part: setattr(part.observations, "count", 2**31),
        lambda part: setattr(part.observations, "height_px", 4096),
        lambda part: setattr(part.observations, "data", part.observations.data[:-1]),
        lambda part: setattr(part.observations, "data", part.observations.data + b"0"),
        lambda part: part.observations.image_bytes.append(0),
        lambda part: part.observations.current.pop(),
        lambda part: part.observations.next.append(0),
        lambda part: part.observations.next.__setitem__(0, 6),
        lambda part: part.observations.image_bytes.__setitem__(0, 2**32 - 1),
    ],
)
def test_a_part_that_does_not_fit_is_corrupt(damage):
    part = sent(filled_batch(), 0)
    damage(part)
    with pytest.raises(Corrupt):
        part_into_batch(part, filled_batch())


def test_a_codec_of_a_newer_server_is_named():
    part = sent(filled_batch(), 0)
    part.observations.codec = tb.CODEC_SHUFFLE_ZSTD
    with pytest.raises(InvalidInput, match="codec 4 is not known"):
        part_into_batch(part, filled_batch())
