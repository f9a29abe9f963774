"""Which message a frame gets, against a search through all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_converter.frames.align import align

MS = 1_000_000
times = st.lists(st.integers(-500, 500), min_size=1, max_size=30)


def pick(moment, stamps, how, tolerance_ms):  # noqa: PLR0911 - one return a case
    """Number of the message and of the one to blend with, by looking at every message."""
    earlier = [(moment - t, n) for n, t in enumerate(stamps) if t <= moment]
    later = [(t - moment, n) for n, t in enumerate(stamps) if t >= moment]
    if how == "hold":
        # Of several at the same time the one recorded last.
        age, number = min(((age, -n) for age, n in earlier), default=(np.inf, 0))
        return (-number, -1) if age <= tolerance_ms else (-1, -1)
    if how == "nearest":
        age = min((age for age, _ in earlier), default=np.inf)
        wait = min((wait for wait, _ in later), default=np.inf)
        if min(age, wait) > tolerance_ms:
            return (-1, -1)
        if wait < age:
            return (min(n for w, n in later if w == wait), -1)
        return (max(n for a, n in earlier if a == age), -1)
    if not earlier or not later:
        return (-1, -1)
    age, wait = min(earlier)[0], min(later)[0]
    first = max(n for a, n in earlier if a == age)
    if age == 0:
        return (first, -1)
    if max(age, wait) > tolerance_ms:
        return (-1, -1)
    return (first, min(n for w, n in later if w == wait))


@pytest.mark.parametrize("how", ["nearest", "hold", "interpolate"])
@given(stamps=times, moments=times, tolerance_ms=st.integers(0, 200))
def test_every_moment_gets_the_message_that_a_search_finds(how, stamps, moments, tolerance_ms):
    track = align(
        np.array(moments, np.int64) * MS, np.array(stamps, np.int64) * MS, how, tolerance_ms / 1e3
    )
    found = list(zip(track.first.tolist(), track.second.tolist(), strict=True))
    assert found == [pick(moment, stamps, how, tolerance_ms) for moment in moments]


def test_blending_is_linear_in_time():
    track = align(np.array([30 * MS]), np.array([0, 100 * MS]), "interpolate", 1.0)
    assert (track.first[0], track.second[0]) == (0, 1)
    assert track.weight[0] == pytest.approx(0.3)


def test_hold_without_a_tolerance_takes_a_message_of_any_age_but_none_from_the_future():
    moments, stamps = np.array([-1, 0, 10**18]), np.array([0])
    assert align(moments, stamps, "hold", np.inf).first.tolist() == [-1, 0, 0]
