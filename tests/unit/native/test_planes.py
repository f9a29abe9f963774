"""Planes of numbers and bits: each level gives the bytes of the format, and takes no others."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.native import (
    join_bits,
    join_planes,
    pack,
    packed_room,
    split_bits,
    split_planes,
    unpack,
)

ITEMS = [1, 2, 3, 4, 8, 12, 16]
FIXTURE = [HealthCheck.function_scoped_fixture]
AROUND = 64


@pytest.fixture(autouse=True)
def _each_implementation(implementation):
    """All tests here run with NumPy alone and with each level of the native library."""


def filled(call, size):
    """What ``call`` writes into an array at an odd address, and nothing beyond it."""
    memory = np.full(size + 2 * AROUND + 1, 0xA5, np.uint8)
    out = memory[AROUND + 1 : AROUND + 1 + size]
    result = call(out)
    assert set(memory[: AROUND + 1]) == set(memory[AROUND + 1 + size :]) == {0xA5}
    return out, result


def noise(seed, size):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("item", ITEMS)
@settings(deadline=None, max_examples=40, suppress_health_check=FIXTURE)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 300))
def test_plane_p_holds_byte_p_of_each_number(item, seed, count):
    raw = noise(seed, item * count + 1)[1:]
    planes, _ = filled(lambda out: split_planes(raw, item, out), raw.size)
    assert planes.tobytes() == b"".join(raw.tobytes()[place::item] for place in range(item))
    each = list(planes.reshape(item, count))
    numbers, _ = filled(lambda out: join_planes(each, out), raw.size)
    assert numbers.tobytes() == raw.tobytes()


@settings(deadline=None, max_examples=60, suppress_health_check=FIXTURE)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 700))
def test_bit_plane_b_holds_bit_b_of_each_byte_and_the_rest_stays(seed, size):
    plane = noise(seed, size)
    whole = size // 8 * 8
    expected = b""
    for bit in range(8):
        bits = [int(value) >> bit & 1 for value in plane[:whole]]
        number = sum(value << place for place, value in enumerate(bits))
        expected += number.to_bytes(whole // 8, "little")
    found, _ = filled(lambda out: split_bits(plane, out), size)
    assert found.tobytes() == expected + plane[whole:].tobytes()
    back, _ = filled(lambda out: join_bits(found, out), size)
    assert back.tobytes() == plane.tobytes()


def packed_plainly(plane):
    """As the format is told, byte by byte."""
    lows, which, planes = b"", b"", b""
    whole = len(plane) // 64 * 64
    for start in range(0, whole, 64):
        values = [(value << 1 | value >> 7) & 255 for value in plane[start : start + 64]]
        low = min(values)
        lows += bytes([low])
        there = 0
        for bit in range(8):
            number = sum(((value - low) >> bit & 1) << at for at, value in enumerate(values))
            if number:
                there |= 1 << bit
                planes += number.to_bytes(8, "little")
        which += bytes([there])
    return lows + which + planes + plane[whole:]


def packed(plane):
    out, size = filled(lambda out: pack(plane, out), packed_room(plane.size))
    return out[:size].copy()


@settings(deadline=None, max_examples=100, suppress_health_check=FIXTURE)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(0, 400),
    low=st.integers(0, 255),
    spread=st.integers(1, 256),
    mask=st.integers(0, 255),
)
def test_packed_plane_is_what_the_format_says_and_gives_back_every_byte(
    seed, size, low, spread, mask
):
    values = np.random.default_rng(seed).integers(0, spread, size) + low
    plane = (values & mask).astype(np.uint8)
    data = packed(plane)
    assert data.tobytes() == packed_plainly(plane.tobytes())
    back, taken = filled(lambda out: unpack(data, out), size)
    assert taken
    assert back.tobytes() == plane.tobytes()
    longer = np.append(data, np.uint8(0))
    assert not filled(lambda out: unpack(longer, out), size)[1]
    if size:
        assert not filled(lambda out: unpack(data[:-1], out), size)[1]


@settings(deadline=None, max_examples=150, suppress_health_check=FIXTURE)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_arbitrary_bytes_unpack_only_where_their_size_is_right(data, size):
    blocks = size // 64
    right = 2 * blocks + 8 * sum(byte.bit_count() for byte in data[blocks : 2 * blocks]) + size % 64
    taken = filled(lambda out: unpack(np.frombuffer(data, np.uint8), out), size)[1]
    assert taken == (len(data) == right and len(data) >= 2 * blocks)


def test_signs_and_exponents_of_weights_take_half():
    weights = np.random.default_rng(0).normal(0, 0.02, 1 << 14).astype(np.float32)
    plane = weights.view(np.uint8)[3::4].copy()
    assert packed(plane).size < 0.51 * plane.size


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: split_planes(a[:9], 2, b[:9]),
        lambda a, b: split_planes(a[:8], 2, b[:9]),
        lambda a, b: join_planes([a[:4], a[4:9]], b[:9]),
        lambda a, b: join_planes([a[:4], a[4:8]], b[:9]),
        lambda a, b: split_bits(a[:8], b[:9]),
        lambda a, b: join_bits(a[:9], b[:8]),
        lambda a, b: pack(a[:64], b[:73]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="bytes"):
        call(np.zeros(100, np.uint8), np.zeros(100, np.uint8))
