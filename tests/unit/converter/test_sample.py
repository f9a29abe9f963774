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


def test_of_many_episodes_some_give_five_frames_and_all_others_one() -> None:
    sample = Sample(1000, full=False)
    found = [sample.of(episode, 101) for episode in range(1000)]
    assert found[:3] == [[0, 25, 50, 75, 100], [25], [50]]
    assert sum(len(frames) == 5 for frames in found) == 200
    assert sum(map(len, found)) == 1800
    assert "every 5. episode" in str(sample)


def test_frames_of_all_places_are_looked_at_in_episodes_of_one_frame() -> None:
    sample = Sample(800, full=False)
    ones = [sample.of(episode, 101) for episode in range(800) if episode % 4]
    assert {frame for (frame,) in ones} == {0, 25, 50, 75, 100}


def test_one_image_tells_nothing_of_the_statistics_of_an_episode() -> None:
    sample = Sample(1000, full=False)
    assert [sample.is_enough(images, 30) for images in (1, 4, 5)] == [False, False, True]
    assert sample.is_enough(3, 3)
