import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.rollout_file.made import KINDS, encoded, numbers, same_bytes

from penstock.rollout_file import Encoding, read
from penstock.rollout_file.leaves import DTYPES


def following(rng, base, resets):
    """What comes one step later, but for the last step and where an episode ended."""
    after = np.roll(base, -1, axis=1)
    differs = rng.random(base.shape[:2]) < resets
    differs[:, -1] = True
    other = np.frombuffer(rng.bytes(base.nbytes), np.uint8)
    other = other & 1 if base.dtype.kind == "b" else other
    after[differs] = other.view(base.dtype).reshape(base.shape)[differs]
    return after


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 20), st.integers(2, 140)),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(list(DTYPES)),
    shape=st.sampled_from([(), (7,), (1, 36, 4), (300,)]),
    codec=st.sampled_from(["raw", "lz4", "zstd"]),
    resets=st.sampled_from([0, 0.02, 0.3, 1]),
)
def test_next_comes_back_to_the_bit(seed, size, kind, dtype, shape, codec, resets):
    rng = np.random.default_rng(seed)
    base = numbers(rng, kind, dtype, (*size, *shape))
    leaves = {"x": base, "next/x": following(rng, base, resets)}
    found = read(io.BytesIO(encoded(leaves, Encoding(codec))[0]))
    assert all(same_bytes(found[name], array) for name, array in leaves.items())


def base_of(leaves, encoding=None):
    _, encoder = encoded(leaves, encoding)
    return {f.name: f.next_of for f in encoder.index.fields if f.next_of}


def walk(shape=(32, 32, 5), dtype=np.float32):
    rng = np.random.default_rng(5)
    state = np.cumsum(rng.normal(size=shape), 1).astype(dtype)
    return state, following(rng, state, 0.05)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("next/state", "state"),
        ("next/o/state", "o/state"),
        ("agents/next/state", "agents/state"),
        ("next_state", "state"),
        ("o/next_state", "o/state"),
        ("next_o/state", "o/state"),
    ],
)
def test_next_is_found_beside_its_field(name, base):
    state, after = walk()
    assert base_of({base: state, name: after}) == {name: base}
    assert base_of({name: after, base: state}) == {name: base}


def test_next_of_another_form_or_of_nothing_is_kept_as_it_is():
    state, after = walk()
    assert base_of({"next/x": after}) == {}
    assert base_of({"next": after, "x": state}) == {}
    assert base_of({"x": state, "next/x": after[:, :, :4]}) == {}
    assert base_of({"x": state, "next/x": after.view(np.uint32)}) == {}
    assert base_of({"x": state, "next/x": np.random.default_rng(0).random(state.shape)}) == {}
    assert base_of({"x": state, "next/x": state[::-1]}) == {}
    assert base_of({"x": state[:, :1], "next/x": after[:, :1]}) == {}


def test_a_chain_of_next_fields_is_rebuilt_from_what_is_stored_whole():
    state, after = walk()
    later = np.roll(after, -1, 1)
    found = base_of({"x": state, "next/x": after, "next/next/x": later})
    assert "x" not in found
    assert not set(found.values()) & set(found)


def test_rebuilding_can_be_switched_off():
    state, after = walk()
    leaves = {"x": state, "next/x": after}
    assert base_of(leaves, Encoding(rebuild_next=False)) == {}
    small, large = (len(encoded(leaves, Encoding(rebuild_next=on))[0]) for on in (True, False))
    assert small < 0.62 * large


def test_only_rows_that_differ_are_stored():
    state, after = walk((64, 64, 50))
    differs = (np.roll(state, -1, 1) != after).any(-1).sum()
    _, encoder = encoded({"x": state, "next/x": after}, Encoding("raw"))
    index = encoder.index
    stored = int(index.sizes[index.segments.field == 1].sum())
    # The rows, a bit for each row, and a byte a segment.
    segments = int((index.segments.field == 1).sum())
    assert stored == differs * 50 * 4 + 64 * 64 // 8 + segments


def test_halves_are_compared_as_they_are_stored():
    state, after = walk()
    both, one = ("x", "next/x"), ("x",)
    after = np.where(np.isfinite(after) & (abs(after) < 60_000), after, 0)
    assert base_of({"x": state, "next/x": after}, Encoding(half=both)) == {"next/x": "x"}
    assert base_of({"x": state, "next/x": after}, Encoding(half=one)) == {}


def test_a_next_field_is_rebuilt_from_one_that_is_not_compressed():
    state, after = walk()
    data, encoder = encoded({"x": state, "next/x": after}, Encoding(only=("next",)))
    assert [(f.codec, f.next_of) for f in encoder.index.fields] == [("raw", None), ("lz4", "x")]
    found = read(io.BytesIO(data))
    assert found["next/x"].tobytes() == after.tobytes()
