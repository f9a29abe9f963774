import ctypes
import mmap
import platform

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


# Elsewhere OpenCV may have kernels with bytes of their own.
needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the bytes of OpenCV on x86-64 are meant"
)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def resized(images, height, width):
    out = np.full((len(images), height, width, 3), 99, np.uint8)
    resize_images(images, out)
    return out


def by_opencv(image, height, width):
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def by_definition(image, height, width):
    """One number after another, as the docstring of penstock.resize has it."""

    def taps(size, out_size, place):
        step = 1.0 / (out_size / size)
        s = np.float32((place + 0.5) * step - 0.5)
        first = int(np.floor(s))
        fraction = s - np.float32(first)
        weights = (np.float32(1) - fraction, fraction)
        return first, [round(float(weight * np.float32(2048))) for weight in weights]

    h, w = image.shape[:2]
    pixels = image.astype(int).tolist()
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        row, down = taps(h, height, y)
        pair = [min(max(row + side, 0), h - 1) for side in (0, 1)]
        for x in range(width):
            left, across = taps(w, width, x)
            if left < 0 or left >= w - 1:
                left, across = max(left, 0), (2048, 0)
            right = min(left + 1, w - 1)
            for c in range(3):
                total = 2
                for source, weight in zip(pair, down, strict=True):
                    line = pixels[source]
                    value = (across[0] * line[left][c] + across[1] * line[right][c]) // 16
                    total += weight * value // 65536
                out[y, x, c] = total // 4
    return out


def exact(image, height, width):
    """Bilinear with half-pixel centres in float64, before any rounding."""

    def places(size, out_size):
        place = np.clip((np.arange(out_size) + 0.5) * size / out_size - 0.5, 0, size - 1)
        first = np.floor(place).astype(int)
        return first, np.minimum(first + 1, size - 1), place - first

    top, bottom, down = places(image.shape[0], height)
    left, right, across = places(image.shape[1], width)
    values = image.astype(np.float64)
    rows = values[top] * (1 - down)[:, None, None] + values[bottom] * down[:, None, None]
    return rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]


@needs_x86
@examples
@given(st.integers(0, 2**32), SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_any_size_to_any_size_gives_the_bytes_of_opencv(
    implementation, seed, h, w, height, width, extremes
):
    images = noise(seed, 2, h, w, 3)
    if extremes:
        images = (images >> 7) * np.uint8(255)
    for image, result in zip(images, resized(images, height, width), strict=True):
        assert np.array_equal(result, by_opencv(image, height, width))


@examples
@given(st.integers(0, 2**32), *4 * [st.integers(1, 12)])
def test_any_size_to_any_size_follows_the_definition(implementation, seed, h, w, height, width):
    image = noise(seed, h, w, 3)
    result = resized(image[None], height, width)[0]
    assert np.array_equal(result, by_definition(image, height, width))


@examples
@given(st.integers(0, 2**32), SIDES, SIDES, SIDES, SIDES)
def test_no_value_is_a_level_away_from_the_exact_one(implementation, seed, h, w, height, width):
    # Both weights of a pixel are off by 2^-12 at most: 1/8 of a level together. Then a row loses up
    # to 1/128 of a level, each of a pair of rows up to 1/4, and the last step adds -1/4 to 1/2.
    image = noise(seed, h, w, 3)
    apart = resized(image[None], height, width)[0] - exact(image, height, width)
    assert apart.min() > -0.89
    assert apart.max() < 0.63


@needs_x86
@pytest.mark.parametrize(
    ("h", "w", "height", "width"),
    [
        (256, 256, 224, 224),
        (480, 640, 224, 224),
        (480, 640, 256, 341),
        (720, 1280, 224, 224),  # neighbours too far apart for vectors of 128 bytes
        (64, 64, 224, 224),
        (225, 223, 224, 224),
        (1, 1, 9, 70),
        (300, 1, 1, 300),
        (300, 2, 1, 300),  # rows shorter than one load
        (7, 5000, 3, 11),
        (5, 1, 32768, 1),
        (2, 32768, 2, 16384),  # places with few digits left in float32
        (2, 30, 3, 4096),  # columns of which the farther pixel has all the weight
        (2, 3, 2, 30369),  # columns whose weights add up to 2049 and to 2047
        (2, 1, 3, 22365),
        (9, 269, 2, 25793),
    ],
)
def test_usual_and_odd_sizes_give_the_bytes_of_opencv(implementation, h, w, height, width):
    images = noise(3, 2, h, w, 3)
    for image, result in zip(images, resized(images, height, width), strict=True):
        assert np.array_equal(result, by_opencv(image, height, width))


@needs_x86
@pytest.mark.parametrize(("h", "w"), [(2, 2), (2, 94), (64, 96), (90, 33), (33, 90), (66, 5)])
@pytest.mark.parametrize(("down", "across"), [(2, 2), (2, 1), (1, 2), (4, 2), (3, 3), (4, 4)])
def test_whole_ratios_which_opencv_averages_itself_give_its_bytes(
    implementation, h, w, down, across
):
    image = noise(4, h, w, 3)
    height, width = max(h // down, 1), max(w // across, 1)
    for source, size in ((image, (height, width)), (image[:height, :width], (h, w))):
        expected = by_opencv(np.ascontiguousarray(source), *size)
        assert np.array_equal(resized(source[None], *size)[0], expected)


@needs_x86
def test_one_image_from_many_rows_keeps_none_of_the_image_before(implementation):
    # One output row out of each image: its first input row has the number the last one ended with.
    images = noise(5, 4, 2, 40, 3)
    for image, result in zip(images, resized(images, 1, 30), strict=True):
        assert np.array_equal(result, by_opencv(image, 1, 30))


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
    ("h", "w", "height", "width"),
    [(1, 1, 1, 1), (2, 2, 3, 40), (3, 64, 3, 56), (3, 100, 3, 43), (2, 300, 2, 50), (4, 7, 9, 64)],
)
def test_nothing_is_read_after_the_images(implementation, h, w, height, width):
    """They lie before a page whose reading ends the process; sanitizers miss masked loads."""
    memory = np.frombuffer(mmap.mmap(-1, 2 * mmap.PAGESIZE), np.uint8)
    guard = ctypes.c_void_p(memory.ctypes.data + mmap.PAGESIZE)
    no_access = 0
    assert ctypes.CDLL(None).mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), no_access) == 0
    images = memory[mmap.PAGESIZE - h * w * 3 : mmap.PAGESIZE].reshape(1, h, w, 3)
    images[...] = noise(6, 1, h, w, 3)
    assert np.array_equal(resized(images, height, width), resized(images.copy(), height, width))


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
