from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from penstock_converter.checks.images import Sample

_COUNTS = st.integers(0, 400)


@given(_COUNTS, st.integers(0, 10_000), st.integers(0, 10_000))
def test_full_is_all_of_them(count: int, episode: int, episodes: int) -> None:
    assert Sample(episodes, full=True).of(episode, count) == list(range(count))


@given(_COUNTS, st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_sample_is_ascending_and_never_empty(count: int, episode: int, episodes: int) -> None:
    found = Sample(episodes, full=False).of(episode, count)
    assert found == sorted(set(found))
    assert all(0 <= frame < count for frame in found)
    assert bool(found) == bool(count)


def test_few_episodes_give_five_frames_each() -> None:
    sample = Sample(200, full=False)
    assert [sample.of(episode, 101) for episode in (0, 1)] == [[0, 25, 50, 75, 100]] * 2
    assert sample.of(0, 3) == [0, 1, 2]
    assert str(sample).startswith("first, middle, last")


def test_many_episodes_give_a_thousand_images_together_from_all_places() -> None:
    sample = Sample(500, full=False)
    found = [sample.of(episode, 101) for episode in range(500)]
    assert sum(map(len, found)) == 1000
    assert found[:3] == [[0, 25], [50, 75], [0, 100]]
    assert str(sample).startswith("2 of 5 frames")


def test_of_every_episode_there_is_one_frame_however_many_there_are() -> None:
    found = [Sample(5000, full=False).of(episode, 101) for episode in range(6)]
    assert found == [[0], [25], [50], [75], [100], [0]]
