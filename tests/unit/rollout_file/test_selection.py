import io
import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.rollout_file.made import encoded, numbers, same_bytes

from penstock.errors import Corrupt, InvalidInput
from penstock.rollout_file import Decoder, Encoding, Index, read, read_index
from penstock.streams import Selection

ENVS, STEPS = 21, 150


def make():
    rng = np.random.default_rng(7)
    state = numbers(rng, "smooth", "float32", (ENVS, STEPS, 6))
    after = np.roll(state, -1, 1)
    after[:, -1] = 3
    after[rng.random((ENVS, STEPS)) < 0.04] = -1
    return {
        "o/state": state,
        "o/image": numbers(rng, "smooth", "uint8", (ENVS, STEPS, 10, 20)),
        "next/o/state": after,
        "next/done": rng.random((ENVS, STEPS)) < 0.04,
        "reward": numbers(rng, "noise", "float64", (ENVS, STEPS)),
        "nothing": np.zeros((ENVS, STEPS, 0), np.int8),
    }


LEAVES = make()
FILES = {codec: encoded(LEAVES, Encoding(codec))[0] for codec in ("raw", "lz4", "zstd")}


class Watched(io.BytesIO):
    """A file that notes how many of its bytes were read."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


@st.composite
def selections(draw):
    first = draw(st.integers(0, STEPS - 1))
    return Selection(
        envs=draw(st.none() | st.lists(st.integers(0, ENVS - 1), unique=True).map(tuple)),
        fields=draw(
            st.none()
            | st.lists(st.sampled_from([*LEAVES, "o", "next", "next/o"]), min_size=1).map(tuple)
        ),
        first_step=first,
        steps=draw(st.none() | st.integers(1, STEPS - first)),
    )


@settings(max_examples=60)
@given(
    selection=selections(),
    codec=st.sampled_from(list(FILES)),
    threads=st.sampled_from([1, 3]),
)
def test_a_part_is_a_slice_of_the_whole(selection, codec, threads):
    found = read(io.BytesIO(FILES[codec]), selection, threads=threads)
    chosen = [
        name
        for name in LEAVES
        if selection.fields is None
        or any(name == path or name.startswith(path + "/") for path in selection.fields)
    ]
    assert list(found) == chosen
    envs = list(range(ENVS)) if selection.envs is None else list(selection.envs)
    end = None if selection.steps is None else selection.first_step + selection.steps
    for name in chosen:
        expected = LEAVES[name][envs][:, selection.first_step : end]
        assert same_bytes(found[name], expected), name


def test_a_part_reads_little_of_the_file():
    whole, part = Watched(FILES["lz4"]), Watched(FILES["lz4"])
    read(whole)
    read(part, Selection(envs=(3,), fields=("o/image",), first_step=10, steps=4))
    assert part.count < whole.count / 4


@settings(max_examples=30)
@given(selection=selections())
def test_ranges_are_merged_and_hold_just_the_segments_that_are_needed(selection):
    index = read_index(io.BytesIO(FILES["zstd"]))
    needed = set()
    found, end = index.segments, 0
    names = [field.name for field in index.fields]
    envs = set(range(ENVS)) if selection.envs is None else set(selection.envs)
    steps = set(range(selection.first_step, STEPS))
    if selection.steps is not None:
        steps = set(range(selection.first_step, selection.first_step + selection.steps))
    wanted = set(names)
    if selection.fields is not None:
        wanted = {n for n in names for p in selection.fields if n == p or n.startswith(p + "/")}
    if "next/o/state" in wanted:
        wanted.add("o/state")
    for number, (field, env, step, length, duration) in enumerate(
        zip(found.field, found.first_env, found.first_step, found.envs, found.steps, strict=True)
    ):
        if (
            names[field] in wanted
            and envs & set(range(env, env + length))
            and steps & set(range(step, step + duration))
        ):
            offset = int(index.offsets[number])
            needed |= set(range(offset, offset + int(index.sizes[number])))
    covered = set()
    for offset, size in index.ranges(selection):
        assert size > 0
        assert offset > end
        end = offset + size
        covered |= set(range(offset, end))
    assert covered == needed


@settings(max_examples=25)
@given(selection=selections(), cut=st.integers(50, 90_000), threads=st.sampled_from([1, 2]))
def test_pieces_may_be_cut_anywhere(selection, cut, threads):
    data = FILES["lz4"]
    index = read_index(io.BytesIO(data))
    decoder = Decoder(index, selection, threads=threads)
    buffer = bytearray(cut)
    for offset, size in index.ranges(selection):
        for at in range(offset, offset + size, cut):
            part = data[at : min(at + cut, offset + size)]
            buffer[: len(part)] = part
            # The same memory each time: nothing of it may be kept.
            decoder.feed(at, memoryview(buffer)[: len(part)])
    found = decoder.finish()
    expected = read(io.BytesIO(data), selection)
    assert found.keys() == expected.keys()
    assert all(same_bytes(found[name], expected[name]) for name in found)


def test_pieces_that_do_not_follow_or_are_too_many_are_refused():
    data = FILES["lz4"]
    index = read_index(io.BytesIO(data))
    (offset, size), *_ = index.ranges(None)
    decoder = Decoder(index)
    decoder.feed(offset, data[offset : offset + 100])
    for wrong in (offset, offset + 99, offset + 101):
        with pytest.raises(Corrupt, match=f"those from {offset + 100} were next"):
            decoder.feed(wrong, b"x")
    with pytest.raises(Corrupt, match="ends early"):
        decoder.finish()
    decoder.feed(offset + 100, data[offset + 100 : offset + size])
    with pytest.raises(Corrupt, match="1 bytes more came"):
        decoder.feed(offset + size, b"x")
    assert decoder.finish().keys() == LEAVES.keys()


@pytest.mark.parametrize(
    ("selection", "named"),
    [
        (Selection(envs=(3, ENVS)), f"environment {ENVS} is not there: the rollout has 0 to 20"),
        (Selection(envs=(-1,)), "environment -1 is not there"),
        (Selection(envs=(2**70,)), "envs are no integers"),
        (Selection(envs=(4, 4)), "chosen twice"),
        (Selection(fields=("o", "p")), "field 'p' is not there: the rollout has o/state, "),
        (Selection(fields=("o/sta",)), "field 'o/sta' is not there"),
        (Selection(first_step=STEPS), f"step {STEPS} is not there: the rollout has 0 to 149"),
        (Selection(first_step=-1), "step -1 is not there"),
        (Selection(first_step=140, steps=11), "11 steps from step 140 on: the rollout has 10"),
        (Selection(steps=0), "0 steps from step 0 on"),
    ],
)
def test_what_is_not_there_is_named(selection, named):
    index = read_index(io.BytesIO(FILES["lz4"]))
    with pytest.raises(InvalidInput, match=re.escape(named)):
        index.ranges(selection)
    with pytest.raises(InvalidInput, match=re.escape(named)):
        Decoder(index, selection)


def test_a_selection_needs_no_class_of_its_own():
    @dataclass
    class Mine:
        envs: list[int]
        fields: list[str]
        first_step: int = 0
        steps: int | None = None

    found = read(io.BytesIO(FILES["raw"]), Mine([2, 0], ["reward"]))
    assert np.array_equal(found["reward"], LEAVES["reward"][[2, 0]], equal_nan=True)


def test_the_index_on_a_wire_is_the_index_in_the_file():
    data = FILES["zstd"]
    index = read_index(io.BytesIO(data))
    again = Index.parse(index.data, len(data))
    assert again.fields == index.fields
    assert again.ranges() == index.ranges() == [(8, int(index.sizes.sum()))]
