import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.resize import resize_images, resize_into

SIDES = st.integers(1, 70)
# The fixture holds no state that examples could hand on to each other.
examples = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def resized(images, height, width):
    out = np.full((len(images), height, width, 3), 99, np.uint8)
    resize_images(images, out)
    return out


def exact(image, height, width):
    """Bilinear with half-pixel centres in float64, straight from the definition."""

    def places(size, out_size):
        place = np.clip((np.arange(out_size) + 0.5) * size / out_size - 0.5, 0, size - 1)
        first = np.floor(place).astype(int)
        return first, np.minimum(first + 1, size - 1), place - first

    top, bottom, down = places(image.shape[0], height)
    left, right, across = places(image.shape[1], width)
    values = image.astype(np.float64)
    rows = values[top] * (1 - down)[:, None, None] + values[bottom] * down[:, None, None]
    return rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]


@examples
@given(st.integers(0, 2**32), SIDES, SIDES, SIDES, SIDES)
def test_any_size_to_any_size_is_exact_but_for_rounding(implementation, seed, h, w, height, width):
    images = noise(seed, 2, h, w, 3)
    out = resized(images, height, width)
    for image, result in zip(images, out, strict=True):
        assert np.abs(result - exact(image, height, width)).max() <= 0.5 + 0.016


@examples
@given(st.integers(0, 2**32), SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_opencv_is_at_most_one_level_away(implementation, seed, h, w, height, width, extremes):
    image = noise(seed, h, w, 3)
    if extremes:
        image = (image >> 7) * np.uint8(255)
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    apart = resized(image[None], height, width)[0].astype(int) - expected
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(
    ("h", "w", "height", "width"),
    [
        (256, 256, 224, 224),
        (480, 640, 224, 224),  # too far apart for one vector of neighbours
        (480, 640, 256, 341),
        (64, 64, 224, 224),
        (225, 223, 224, 224),
        (1, 1, 9, 70),
        (300, 1, 1, 300),
        (7, 5000, 3, 11),
    ],
)
def test_usual_and_odd_sizes_match_opencv_and_the_plain_code(h, w, height, width, kernels):
    images = noise(3, 2, h, w, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.native.library._find", lambda: "absent for this test")
        plain = resized(images, height, width)
        patch.setattr("penstock.native.library._find", lambda: kernels)
        assert np.array_equal(resized(images, height, width), plain)
    for image, result in zip(images, plain, strict=True):
        apart = cv2.resize(image, (width, height)).astype(int) - result
        assert np.abs(apart).max() <= 1


def test_worked_examples(implementation):
    pair = np.array([[[0, 10, 255], [100, 20, 0]]], np.uint8)
    # One pixel from two: their mean, halves rounded up. Four from two: the outer ones repeat the
    # ends, the inner ones lie a quarter and three quarters between.
    assert resized(pair[None], 1, 1)[0].tolist() == [[[50, 15, 128]]]
    assert resized(pair[None], 1, 4)[0, 0].tolist() == [
        [0, 10, 255],
        [25, 13, 191],
        [75, 18, 64],
        [100, 20, 0],
    ]


def test_same_size_is_a_copy_and_a_flat_image_stays_flat(implementation):
    images = noise(1, 3, 20, 31, 3)
    assert np.array_equal(resized(images, 20, 31), images)
    for level in (0, 1, 127, 254, 255):
        assert (resized(np.full((1, 50, 60, 3), level, np.uint8), 33, 91) == level).all()


def test_strided_images_are_read_as_what_they_show(implementation):
    chw = noise(2, 2, 3, 40, 50)
    hwc = chw.transpose(0, 2, 3, 1)
    assert np.array_equal(resized(hwc, 30, 20), resized(hwc.copy(), 30, 20))
    out = np.zeros((30, 20, 3), np.uint8)
    resize_into(hwc[1], out)
    assert np.array_equal(out, resized(hwc, 30, 20)[1])


def test_nothing_is_written_outside_of_the_result(implementation):
    for height, width in [(1, 1), (3, 7), (11, 11), (13, 43)]:
        memory = np.full(height * width * 3 + 256, 77, np.uint8)
        out = memory[128:-128].reshape(1, height, width, 3)
        resize_images(np.zeros((1, 17, 19, 3), np.uint8), out)
        assert (memory[:128] == 77).all()
        assert (memory[-128:] == 77).all()
        assert not out.any()


@pytest.mark.parametrize(
    ("images", "out"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 2, 2, 3), np.uint8)),
        (np.zeros((1, 4, 4, 4), np.uint8), np.zeros((1, 2, 2, 4), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((1, 2, 2, 3), np.uint8)),
        (np.zeros((1, 0, 4, 3), np.uint8), np.zeros((1, 2, 2, 3), np.uint8)),
        (np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 2, 0, 3), np.uint8)),
        (np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 2, 4, 3), np.uint8)[:, :, ::2]),
    ],
)
def test_other_shapes_and_dtypes_are_refused(images, out):
    with pytest.raises(InvalidInput):
        resize_images(images, out)
