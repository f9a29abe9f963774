"""How parts of a rollout and encodings are named."""

import pytest

from penstock.errors import InvalidInput
from penstock.rollout_file import Encoding
from penstock.rollouts.encodings import encoding_of
from penstock.rollouts.selecting import parse_envs, parse_steps, select
from penstock.streams import Selection


@pytest.mark.parametrize(
    ("text", "envs"), [("3", (3,)), ("0-3", (0, 1, 2, 3)), ("7, 0-1,5-5", (7, 0, 1, 5))]
)
def test_environments_are_numbers_and_ranges_that_have_both_ends(text, envs):
    assert parse_envs(text) == envs


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1-2-3"])
def test_environments_that_read_otherwise_are_refused(text):
    with pytest.raises(InvalidInput, match="0-7,12"):
        parse_envs(text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("0:16", (0, 16)), ("4:6", (4, 2)), ("8:", (8, None)), (":8", (0, 8)), (":", (0, None))],
)
def test_steps_are_a_first_one_and_how_many(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["3", "a:b", "1:2:3", "-1:4", "4:4", "5:2"])
def test_steps_that_read_otherwise_are_refused(text):
    with pytest.raises(InvalidInput, match="steps"):
        parse_steps(text)


def test_selection_of_all_kinds():
    assert select() == Selection()
    chosen = select(range(3), "observation", (2, 5))
    assert chosen == Selection(envs=(0, 1, 2), fields=("observation",), first_step=2, steps=3)
    assert select(steps=range(4, 9)) == Selection(first_step=4, steps=5)


@pytest.mark.parametrize(
    "wrong", [{"envs": ()}, {"fields": ()}, {"steps": range(0, 8, 2)}, {"steps": slice(-2, None)}]
)
def test_selection_of_nothing_or_with_gaps_is_refused(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        select(**wrong)


@pytest.mark.parametrize(
    ("level", "encoding"),
    [
        (None, Encoding(codec="lz4")),
        (0, Encoding(codec="lz4")),
        (-8, Encoding(codec="lz4", level=8)),
        (1, Encoding(codec="zstd", level=1)),
        (19, Encoding(codec="zstd", level=19)),
    ],
)
def test_levels_mean_what_other_tools_mean(level, encoding):
    assert encoding_of(None, level) == encoding


def test_encodings_go_by_name():
    assert encoding_of("raw") == Encoding(codec="raw")
    assert encoding_of("auto") is None
    own = Encoding(half=("observation",))
    assert encoding_of(own) is own


@pytest.mark.parametrize("wrong", [("gzip", None), (None, 20), ("lz4", 1)])
def test_encodings_that_are_none_are_refused(wrong):
    with pytest.raises(InvalidInput):
        encoding_of(*wrong)
