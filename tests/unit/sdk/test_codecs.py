import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import native
from penstock.codecs import (
    CODECS,
    IMAGE_CODECS,
    choose_codec,
    decode_images,
    encode_images,
    encode_smallest,
    fast_image_codecs,
    probe_codecs,
)
from penstock.errors import Corrupt, InvalidInput


@given(data=st.binary(max_size=5000), name=st.sampled_from(sorted(CODECS)))
def test_round_trip_is_exact(data, name):
    out = np.zeros(len(data), np.uint8)
    codec = CODECS[name]
    codec.decode_into(codec.encode(memoryview(data)), out)
    assert out.tobytes() == data


@given(data=st.binary(max_size=300), size=st.integers(0, 300), name=st.sampled_from(sorted(CODECS)))
def test_arbitrary_bytes_decode_exactly_or_are_corrupt(data, size, name):
    out = np.zeros(size, np.uint8)
    try:
        CODECS[name].decode_into(data, out)
    except Corrupt:
        return
    again = np.zeros(size, np.uint8)
    CODECS[name].decode_into(data, again)
    assert (out == again).all()


def test_a_bomb_is_refused_instead_of_growing():
    bomb = CODECS["lz4"].encode(memoryview(bytes(10_000_000)))
    with pytest.raises(Corrupt):
        CODECS["lz4"].decode_into(bomb, np.zeros(100, np.uint8))


def test_noise_travels_raw_and_flat_images_as_lz4():
    noise = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)
    assert encode_smallest(noise.data, ("lz4", "raw"))[0] == "raw"
    assert encode_smallest(np.zeros(100_000, np.uint8).data, ("lz4", "raw"))[0] == "lz4"
    assert encode_smallest(np.zeros(100_000, np.uint8).data, ("raw",))[0] == "raw"


def image_samples(kind, count=2, side=48):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:side, 0:side]
    smooth = (90 + 60 * np.sin(rows / 17) * np.cos(columns / 23))[..., None] * [1.0, 0.9, 0.8]
    if kind == "camera":
        images = smooth + rng.normal(0, 2, (count, side, side, 3))
    elif kind == "rendered":
        flat = np.where((rows // 12 + columns // 12) % 2, 200, 90)[..., None]
        images = np.broadcast_to(flat, (count, side, side, 3))
    else:
        images = rng.integers(0, 256, (count, side, side, 3))
    return np.ascontiguousarray(np.clip(images, 0, 255).astype(np.uint8))


@pytest.fixture(params=["native", "numpy"])
def kernels(request, monkeypatch):
    """Image codecs with the native library, and without."""
    if request.param == "native" and not native.available():
        pytest.skip(native.describe())
    if request.param == "numpy":
        monkeypatch.setattr("penstock.native.library._find", lambda: "absent for this test")
    return request.param


# The fixture above holds no state that examples could hand on to each other.
same_for_all_examples = [HealthCheck.function_scoped_fixture]


@settings(deadline=None, max_examples=60, suppress_health_check=same_for_all_examples)
@given(
    shape=st.tuples(*3 * [st.integers(1, 25)]),
    count=st.integers(0, 3),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([1, 4, 256]),
    codec=st.sampled_from(IMAGE_CODECS),
)
def test_images_of_any_shape_come_back_exactly(kernels, shape, count, seed, spread, codec):
    _, height, width = shape
    images = np.random.default_rng(seed).integers(0, spread, (count, height, width, 3), np.uint8)
    data, sizes = encode_images(codec, images)
    assert sizes.dtype == np.uint32
    assert sizes.shape == (count,)
    assert sizes.sum() == len(data)
    out = np.full_like(images, 99)
    decode_images(codec, memoryview(data), sizes, out)
    assert np.array_equal(out, images)


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_each_image_can_be_read_alone(kernels, codec):
    images = image_samples("camera", count=3)
    data, sizes = encode_images(codec, images)
    start = int(sizes[0])
    out = np.zeros_like(images[1:2])
    decode_images(codec, data[start : start + int(sizes[1])], sizes[1:2], out)
    assert np.array_equal(out[0], images[1])


@pytest.mark.parametrize("codec", IMAGE_CODECS)
@pytest.mark.skipif(not native.available(), reason=native.describe())
def test_native_and_plain_code_write_equal_bytes(codec, monkeypatch):
    images = image_samples("camera")
    data, sizes = encode_images(codec, images)
    monkeypatch.setattr("penstock.native.library._find", lambda: "absent for this test")
    plain, plain_sizes = encode_images(codec, images)
    assert data == plain
    assert np.array_equal(sizes, plain_sizes)


@settings(deadline=None, max_examples=150, suppress_health_check=same_for_all_examples)
@given(data=st.binary(max_size=300), codec=st.sampled_from(IMAGE_CODECS))
def test_arbitrary_bytes_are_images_or_corrupt(kernels, data, codec):
    out = np.zeros((1, 4, 5, 3), np.uint8)
    sizes = np.array([len(data)], np.uint32)
    try:
        decode_images(codec, data, sizes, out)
    except Corrupt as error:
        assert "image 0 of 1" in str(error)  # noqa: PT017 - either outcome is right
        return
    again = np.ones_like(out)
    decode_images(codec, data, sizes, again)
    assert np.array_equal(out, again)


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_damage_is_reported_with_the_image_it_hit(kernels, codec):
    images = image_samples("camera", count=3)
    data, sizes = encode_images(codec, images)
    cut = np.array([sizes[0], sizes[1] - 1, sizes[2] + 1], np.uint32)
    with pytest.raises(Corrupt, match="image 1 of 3"):
        decode_images(codec, data, cut, np.zeros_like(images))


def test_sizes_that_do_not_add_up_are_corrupt(kernels):
    images = image_samples("camera")
    data, sizes = encode_images("bitplanes", images)
    out = np.zeros_like(images)
    for wrong in (sizes[:1], sizes + np.uint32(1), np.array([2**32 - 1, 2**32 - 1], np.uint32)):
        with pytest.raises(Corrupt, match="announced"):
            decode_images("bitplanes", data, wrong, out)


def test_an_lz4_bomb_behind_an_image_is_corrupt(kernels):
    bomb = CODECS["lz4"].encode(memoryview(bytes(10_000_000)))
    sizes = np.array([len(bomb)], np.uint32)
    for codec in ("lz4", "bitplanes_lz4"):
        with pytest.raises(Corrupt):
            decode_images(codec, bomb, sizes, np.zeros((1, 4, 4, 3), np.uint8))


def test_what_is_no_image_or_no_codec_is_refused():
    images = image_samples("camera")
    with pytest.raises(InvalidInput, match="'zip' is not known"):
        encode_images("zip", images)
    for wrong in (images[..., :2], images[0], images.astype(np.int8), images[:, ::2]):
        with pytest.raises(InvalidInput):
            encode_images("raw", wrong)


def test_probing_suits_the_codec_to_the_frames():
    everything = ("raw", "lz4", "bitplanes", "bitplanes_lz4", "codec of the future")
    assert choose_codec(image_samples("noise"), everything) == "raw"
    assert choose_codec(image_samples("rendered"), everything) == "lz4"
    assert choose_codec(image_samples("rendered"), ("raw", "bitplanes_lz4")) == "bitplanes_lz4"
    assert choose_codec(image_samples("camera"), ("raw", "lz4")) == "raw"
    assert choose_codec(image_samples("noise"), ("lz4",)) == "lz4"
    with pytest.raises(InvalidInput, match="none of the codecs"):
        choose_codec(image_samples("noise"), ("zip",))


@pytest.mark.skipif(not native.available(), reason=native.describe())
def test_camera_frames_travel_as_bit_planes_with_the_reason():
    choice = probe_codecs(image_samples("camera"), IMAGE_CODECS)
    assert choice.codec in ("bitplanes", "bitplanes_lz4")
    assert choice.shares["bitplanes"] < 0.7
    assert choice.shares["lz4"] > 0.9
    assert str(choice).startswith("bitplanes")
    assert "lz4 1" in str(choice)


def test_without_kernels_bit_planes_are_for_who_accepts_nothing_else(monkeypatch):
    monkeypatch.setattr("penstock.native.library._find", lambda: "absent for this test")
    assert fast_image_codecs() == ("raw", "lz4")
    assert choose_codec(image_samples("camera"), IMAGE_CODECS) == "raw"
    assert choose_codec(image_samples("camera"), ("bitplanes",)) == "bitplanes"
