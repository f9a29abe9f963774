import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.rollout_file.made import KINDS, encoded, numbers, same_bytes

from penstock.errors import InvalidInput, LimitExceeded
from penstock.rollout_file import Encoding, Limits, flatten, read, read_index, verify
from penstock.rollout_file.leaves import DTYPES

SHAPES = [(), (1,), (3,), (8,), (17,), (1, 6, 4), (5, 10), (0,), (2, 0), (20, 30)]
FIXTURE = [HealthCheck.function_scoped_fixture]


def rollout(seed, envs, steps, fields):
    rng = np.random.default_rng(seed)
    return {
        str(place): numbers(rng, kind, dtype, (envs, steps, *shape))
        for place, (kind, dtype, shape) in enumerate(fields)
    }


FIELDS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(list(DTYPES)), st.sampled_from(SHAPES)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
@settings(deadline=None, max_examples=30, suppress_health_check=FIXTURE)
@given(seed=st.integers(0, 2**32), envs=st.integers(1, 20), steps=st.integers(1, 70), fields=FIELDS)
def test_every_bit_comes_back(codec, seed, envs, steps, fields):
    leaves = rollout(seed, envs, steps, fields)
    data, encoder = encoded(leaves, Encoding(codec))
    found = read(io.BytesIO(data))
    assert list(found) == list(leaves)
    for name, array in leaves.items():
        assert same_bytes(found[name], array), name
    assert encoder.raw_size_bytes == sum(array.nbytes for array in leaves.values())
    assert verify(io.BytesIO(data)).raw_size_bytes == encoder.raw_size_bytes


@settings(deadline=None, max_examples=12, suppress_health_check=FIXTURE)
@given(seed=st.integers(0, 2**32), fields=FIELDS, codec=st.sampled_from(["raw", "lz4", "zstd"]))
def test_each_implementation_reads_what_it_wrote(implementation, seed, fields, codec):
    leaves = rollout(seed, 9, 33, fields)
    leaves |= {"next/0": np.roll(leaves["0"], -1, 1)}
    found = read(io.BytesIO(encoded(leaves, Encoding(codec))[0]))
    assert all(same_bytes(found[name], array) for name, array in leaves.items())


LAYOUTS = {
    "fortran": np.asfortranarray,
    "time first": lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
    "features first": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 2, 0)), 0, 2),
    "every other": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "every other feature": lambda x: np.repeat(x, 2, 2)[:, :, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "at an odd address": lambda x: (
        np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_does_not_matter(layout):
    plain = {
        "x": numbers(np.random.default_rng(1), "smooth", "float32", (11, 40, 9, 2)),
        "next/x": numbers(np.random.default_rng(2), "smooth", "float64", (11, 40, 9, 2)),
    }
    expected, _ = encoded(plain)
    laid_out = {name: LAYOUTS[layout](array) for name, array in plain.items()}
    assert all(np.array_equal(laid_out[name], array) for name, array in plain.items())
    assert encoded(laid_out)[0] == expected


def test_one_row_for_all_steps_needs_no_memory_of_its_own():
    row = np.arange(7, dtype=np.int32)
    leaves = {"x": np.broadcast_to(row, (20, 30, 7))}
    found = read(io.BytesIO(encoded(leaves)[0]))["x"]
    assert np.array_equal(found, leaves["x"])


def test_rows_of_megabytes_are_cut_by_steps():
    frames = np.random.default_rng(0).integers(0, 255, (2, 3, 1100, 1000), np.uint8)
    data, encoder = encoded({"frames": frames, "step": np.zeros((2, 3, 60_000), np.int64)})
    assert [(f.chunk_envs, f.chunk_steps) for f in encoder.index.fields] == [(1, 1), (1, 2)]
    assert np.array_equal(read(io.BytesIO(data))["frames"], frames)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_threads_do_not_change_a_byte(threads, codec):
    rng = np.random.default_rng(3)
    state = numbers(rng, "smooth", "float32", (300, 64, 30))
    leaves = {"x": state, "next": np.roll(state, -1, 1), "y": state[:, :, :3].astype(np.float64)}
    alone, _ = encoded(leaves, Encoding(codec))
    together, encoder = encoded(leaves, Encoding(codec), threads=threads)
    assert together == alone
    assert len(list(encoder)) > 4
    found = read(io.BytesIO(alone), threads=threads)
    assert all(same_bytes(found[name], array) for name, array in leaves.items())


def test_a_reader_that_leaves_early_ends_the_threads():
    leaves = {"x": np.random.default_rng(4).normal(size=(300, 64, 30))}
    buffers = iter(encoded(leaves, threads=3)[1])
    next(buffers)
    buffers.close()


def test_the_digest_is_that_of_the_file_and_the_index_that_which_is_read():
    data, encoder = encoded({"x": np.arange(600.0).reshape(10, 60)}, meta={"by": ["ü", 1, None]})
    assert encoder.size_bytes == len(data)
    assert str(encoder.digest) == str(type(encoder.digest).of_bytes(data))
    index = read_index(io.BytesIO(data))
    assert index.data == encoder.index.data
    assert index.meta == {"by": ["ü", 1, None]}
    assert (index.envs, index.steps, index.file_size_bytes) == (10, 60, len(data))


def test_nothing_is_known_before_all_buffers_came():
    _, encoder = encoded({"x": np.zeros((2, 2))})
    fresh = type(encoder)({"x": np.zeros((2, 2))})
    for name in ("index", "digest", "size_bytes"):
        with pytest.raises(RuntimeError, match="when all buffers came"):
            getattr(fresh, name)


def test_still_numbers_take_next_to_nothing():
    still = np.broadcast_to(np.arange(50, dtype=np.float32), (64, 64, 50))
    assert len(encoded({"x": still})[0]) < still.nbytes / 50


def test_noise_takes_no_more_than_it_is():
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64, 50), np.uint32)
    for codec in ("raw", "lz4", "zstd"):
        assert len(encoded({"x": noise}, Encoding(codec))[0]) < noise.nbytes * 1.001 + 1000


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ({"codec": "gzip"}, "codec is 'gzip'"),
        ({"codec": "zstd", "level": 40}, "level of zstd is 40"),
        ({"codec": "lz4", "level": 0}, "level of lz4 is 0"),
    ],
)
def test_encodings_that_cannot_be_are_named(encoding, named):
    with pytest.raises(InvalidInput, match=named):
        Encoding(**encoding)


def test_only_chosen_fields_are_compressed():
    leaves = {"a/x": np.zeros((8, 64, 40)), "a/y": np.zeros((8, 64)), "b": np.zeros((8, 64, 40))}
    data, encoder = encoded(leaves, Encoding("zstd", only=("a",)))
    assert [field.codec for field in encoder.index.fields] == ["zstd", "zstd", "raw"]
    assert leaves["b"].nbytes < len(data) < leaves["b"].nbytes * 1.1
    for path in ("c", "a/x/y"):
        with pytest.raises(InvalidInput, match="no field"):
            encoded(leaves, Encoding(only=(path,)))


@pytest.mark.parametrize("meta", [{"a": float("nan")}, {"a": object()}, {"a": "x" * 2_000_000}])
def test_meta_that_is_no_small_json_is_refused(meta):
    with pytest.raises(InvalidInput, match="meta"):
        encoded({"x": np.zeros((2, 2))}, meta=meta)


def test_what_nobody_may_read_is_not_written():
    leaves = flatten({"x": np.zeros((4, 4, 4))})
    for limits in (Limits(raw_size_bytes=500), Limits(row_size_bytes=16)):
        with pytest.raises(LimitExceeded):
            encoded(leaves, limits=limits)
