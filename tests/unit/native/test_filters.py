"""Differences and rounding: each level gives what exact arithmetic gives."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.native import add_difference, round_bfloat16, subtract

FIXTURE = [HealthCheck.function_scoped_fixture]


@pytest.fixture(autouse=True)
def _each_implementation(implementation):
    """All tests here run with NumPy alone and with each level of the native library."""


@pytest.mark.parametrize("item", [2, 4, 8])
@settings(deadline=None, max_examples=60, suppress_health_check=FIXTURE)
@given(data=st.data())
def test_difference_is_in_zigzag_order_and_can_be_undone(item, data):
    most = 2 ** (8 * item) - 1
    edges = st.sampled_from([0, 1, most // 2, most // 2 + 1, most])
    numbers = st.lists(st.tuples(*2 * [edges | st.integers(0, most)]), max_size=70)
    pairs = data.draw(numbers)
    # At odd addresses.
    raw, base, out = (np.zeros(item * len(pairs) + 1, np.uint8)[1:] for _ in range(3))
    raw.view(f"u{item}")[:] = [new for new, _ in pairs]
    base.view(f"u{item}")[:] = [old for _, old in pairs]
    subtract(raw, base, item, out)
    for found, (new, old) in zip(out.view(f"u{item}").tolist(), pairs, strict=True):
        signed = (new - old + most // 2 + 1) % (most + 1) - (most // 2 + 1)
        assert found == (2 * signed if signed >= 0 else -2 * signed - 1)
    add_difference(base, item, out)
    assert out.tobytes() == raw.tobytes()


@settings(deadline=None, max_examples=100, suppress_health_check=FIXTURE)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=70))
def test_rounding_takes_the_nearest_and_keeps_what_is_no_number(words):
    floats = np.zeros(4 * len(words) + 1, np.uint8)[1:]
    floats.view(np.uint32)[:] = words
    halves = np.zeros(2 * len(words), np.uint8)
    round_bfloat16(floats, halves)
    for word, half in zip(words, halves.view(np.uint16).tolist(), strict=True):
        if word & 0x7FFFFFFF > 0x7F800000:
            assert half & 0x7FFF > 0x7F80
            continue
        # As whole numbers the patterns of one sign are in the order of what they mean.
        off = abs((half << 16) - word)
        assert off <= 0x8000
        assert off < 0x8000 or half % 2 == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda a: subtract(a[:8], a[:8], 4, a[:12]),
        lambda a: subtract(a[:8], a[:12], 4, a[:8]),
        lambda a: subtract(a[:6], a[:6], 4, a[:6]),
        lambda a: subtract(a[:6], a[:6], 3, a[:6]),
        lambda a: add_difference(a[:8], 4, a[:4]),
        lambda a: round_bfloat16(a[:8], a[:8]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="bytes"):
        call(np.zeros(16, np.uint8))
