"""Checkpoints on a base: what is equal costs nothing, a wrong base never gives other content."""

import io
import json
import struct

import numpy as np
import pytest
import torch
import xxhash

from penstock import container
from penstock.container import Base, Reader
from penstock.container.codecs import Codec, Filter
from penstock.errors import Corrupt, Unsupported

FOOTER = struct.Struct("<QQ16s8s")
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint64,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


def weights(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02


class File:
    """A checkpoint in memory, whole or on another one."""

    def __init__(self, state, step=1, base=None, compress="delta"):
        file = io.BytesIO()
        self.on, self.step = base, step
        self.written = container.write(
            state, file, compress=compress, base=None if base is None else base.as_base()
        )
        self.data = file.getvalue()

    def as_base(self):
        ref = self.written.ref(self.step)
        return Base(ref, io.BytesIO(self.data), self.written.hashes)

    def reader(self, base_data=None):
        data = base_data or (self.on.data if self.on else b"")
        return Reader(io.BytesIO(self.data), open_base=lambda _: Reader(io.BytesIO(data)))

    def load(self, base_data=None, **options):
        with self.reader(base_data) as reader:
            return reader.load(**options)

    @property
    def chunks(self):
        with self.reader() as reader:
            return [chunk for storage in reader.index.storages for chunk in storage.chunks]


def same(found, wanted):
    """Equal to the bit, types and dtypes too."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        return all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, torch.Tensor):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        found, wanted = (x.contiguous().reshape(-1).view(torch.uint8) for x in (found, wanted))
        return torch.equal(found, wanted)
    if isinstance(wanted, np.ndarray):
        return found.dtype == wanted.dtype and found.tobytes() == wanted.tobytes()
    return found == wanted


def varied(seed):
    """A tensor of every dtype, and arrays."""
    bits = np.random.default_rng(seed).integers(0, 2, 48_000, np.uint8)
    tensors = {
        str(dtype): torch.from_numpy(bits.copy()).view(dtype)[: 40_000 // dtype.itemsize]
        for dtype in DTYPES
    }
    return {
        **tensors,
        "array": bits.view(np.int32)[:5000].copy(),
        "big": np.arange(9e3, dtype=">f8"),
    }


@pytest.mark.parametrize("compress", ["small", "fast", "delta", "none"])
def test_unchanged_tensors_of_every_dtype_cost_no_bytes(compress):
    first = File(varied(1), compress=compress)
    second = File(varied(1), 2, first, compress)
    assert {(chunk.codec, chunk.stored_bytes) for chunk in second.chunks} == {(Codec.BASE, 0)}
    assert {stored for _, stored in second.written.sections.values()} == {0}
    assert same(second.load(), varied(1))


@pytest.mark.parametrize("compress", ["small", "fast", "delta", "none"])
def test_changed_tensors_of_every_dtype_keep_their_bits(compress):
    second = File(varied(2), 2, File(varied(1), compress=compress), compress)
    assert same(second.load(), varied(2))


def test_rounded_checkpoint_on_a_rounded_base_is_that_of_its_own_state():
    state = {"w": weights(300_000), "v": weights(300_000, 1)}
    first = File(state, compress="policy-bf16")
    later = {"w": state["w"], "v": state["v"] * 1.5}
    second = File(later, 2, first, "policy-bf16")
    assert same(second.load(), {name: t.bfloat16().float() for name, t in later.items()})


def test_only_the_chunks_that_changed_are_stored():
    state = {"w": weights(1_000_000)}  # four chunks
    first = File(state)
    changed = state["w"].clone()
    changed[600_000] = 5.0  # in the third
    second = File({"w": changed}, 2, first)
    stored = [chunk.stored_bytes > 0 for chunk in second.chunks]
    assert stored == [False, False, True, False]
    assert same(second.load(), {"w": changed})


def test_difference_takes_less_than_half_of_what_small_does():
    state = {"w": weights(600_000)}
    moved = {"w": state["w"] + 1e-7 * weights(600_000, 3)}
    on_base, alone = File(moved, 2, File(state)), File(moved, 2, compress="small")
    assert {chunk.filter for chunk in on_base.chunks} == {Filter.DELTA}
    assert len(on_base.data) < len(alone.data) / 2
    assert same(on_base.load(), moved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_difference_across_zero_infinity_and_nan_keeps_every_bit(dtype):
    special = torch.tensor(
        [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 6e-8], dtype=dtype
    )
    first = special.repeat(8).repeat(1000)
    second = special.repeat_interleave(8).repeat(1000)  # each pair of them
    on_base = File({"w": second}, 2, File({"w": first}))
    assert same(on_base.load(), {"w": second})


def test_state_may_gain_lose_and_reshape_tensors():
    first = {"stays": weights(9000), "goes": weights(9000, 1), "grows": weights(9000, 2)}
    second = {
        "new": weights(9000, 3),
        "stays": first["stays"],
        "grows": weights(9001, 2),
        "goes": {"deeper": first["goes"]},
    }
    on_base = File(second, 2, File(first))
    assert same(on_base.load(), second)
    turned = {"stays": first["stays"].reshape(90, 100), "goes": first["goes"].view(torch.int32)}
    on_base = File(turned, 3, File(first))
    assert same(on_base.load(), turned)
    # The same bytes at the same place, whatever they are now taken for.
    assert {chunk.codec for chunk in on_base.chunks} == {Codec.BASE}


def test_change_of_element_size_at_the_same_place_is_no_difference():
    first = {"w": torch.arange(8000, dtype=torch.int32)}
    second = {"w": torch.arange(1, 4001, dtype=torch.int64)}
    on_base = File(second, 2, File(first))
    assert Filter.DELTA not in {chunk.filter for chunk in on_base.chunks}
    assert same(on_base.load(), second)


@pytest.mark.parametrize("compress", ["delta", "small"])
def test_keys_that_clash_when_joined_by_dots_keep_their_own_tensors(compress):
    a, b, c = weights(9000), weights(9000, 1), weights(9000, 2)
    first = {"x.y": a, "x": {"y": b, 1: c}, "x.1": a + 1}
    second = {"x.y": b, "x": {"y": a, 1: c + 1}, "x.1": c}
    for later in (first, second):
        assert same(File(later, 2, File(first), compress).load(), later)
        assert same(File(later, 2, File(second), compress).load(), later)


def test_twins_are_stored_once_and_do_not_share_memory_but_tied_tensors_do():
    weight = weights(300_000)
    state = {"net": weight, "target": weight.clone(), "tied": weight.view(300, 1000)}
    alone = File(state, compress="none")
    assert alone.written.raw_size_bytes == 2_400_000
    assert 1_200_000 < len(alone.data) < 1_210_000
    for file in (alone, File(state, 2, alone), File(state, 2, File({"net": weight}))):
        found = file.load()
        assert same(found, state)
        found["net"][0] = 7.0
        assert found["tied"][0, 0] == 7.0
        assert found["target"][0] == weight[0]


def test_twins_among_arrays_bytes_and_dtypes_stay_apart():
    data = np.arange(5000, dtype=np.int64)
    state = {
        "a": data,
        "b": data.copy(),
        "t": torch.from_numpy(data.copy()),
        "f": torch.from_numpy(data.copy()).view(torch.float64),
        "bytes": data.tobytes(),
        "none": np.zeros(0),
        "nothing": torch.zeros(0, 2),
    }
    file = File(state, compress="none")
    assert len(file.data) < 42_000
    found = file.load()
    assert same(found, state)
    found["a"][0] = 9
    found["t"][1] = 9
    assert found["b"][0] == found["t"][0] == 0
    assert (found["a"][1], found["f"].view(torch.int64)[1]) == (1, 1)


def test_twin_on_a_base_reads_through_the_one_that_is_stored():
    weight = weights(300_000)
    first = File({"a": weight, "b": weight.clone()})
    for later in (
        {"a": weight, "b": weight * 1.0000001},
        {"a": weight * 1.0000001, "b": weight},
        {"a": weight * 1.0000001, "b": weight * 1.0000001},
        {"b": weight.clone(), "a": weight.clone()},
    ):
        assert same(File(later, 2, first).load(), later)


def test_part_of_a_checkpoint_reads_only_its_own_part_of_the_base():
    first = {"policy": {"w": weights(9000)}, "rest": weights(9000, 1)}
    second = {"policy": {"w": weights(9000) * 1.0000001}, "rest": first["rest"]}
    base = File(first)
    on_base = File(second, 2, base)
    damaged = bytearray(base.data)
    with base.reader() as reader:
        rest = reader.index.entries[1].storage
        damaged[reader.index.storages[rest].offset_bytes] ^= 1
    found = on_base.load(bytes(damaged), only=("policy",))
    assert same(found, second["policy"])
    with pytest.raises(Corrupt):
        on_base.load(bytes(damaged))


def test_without_its_base_it_says_which_step_is_missing():
    on_base = File({"w": weights(9000)}, 20, File({"w": weights(9000)}, 10))
    reader = Reader(io.BytesIO(on_base.data))
    with pytest.raises(Unsupported, match="refers to step 10 of its run: load it from") as refused:
        reader.load()
    assert refused.value.reason == "BASE_NEEDED"
    assert on_base.reader().verify().base == on_base.on.written.ref(10)


def test_it_refers_to_no_base_that_it_does_not_use():
    on_base = File({"w": weights(9000)}, 20, File({"other": weights(9000)}, 10))
    with Reader(io.BytesIO(on_base.data)) as reader:
        assert reader.index.base is None
        assert same(reader.load(), {"w": weights(9000)})


SECOND = {
    "equal": weights(300_000),
    "moved": weights(300_000, 1) * 1.0000001,
    "small": weights(3000, 2) * 1.0000001,
}
FIRST = {"equal": SECOND["equal"], "moved": weights(300_000, 1), "small": weights(3000, 2)}


def test_equal_chunk_is_refused_where_the_base_has_another_content():
    on_base = File({"w": SECOND["equal"]}, 2, File({"w": FIRST["equal"]}))
    for other in ({"w": FIRST["equal"] + 1}, {"w": -FIRST["equal"]}, {"w": torch.zeros(300_000)}):
        with pytest.raises(Corrupt):
            on_base.load(File(other).data)


def test_difference_is_refused_on_another_file_of_the_same_form():
    on_base = File({"w": SECOND["moved"]}, 2, File({"w": FIRST["moved"]}))
    assert {chunk.filter for chunk in on_base.chunks} == {Filter.DELTA}
    others = FIRST["moved"] * 1.0000001, FIRST["equal"], torch.zeros(300_000)
    for other in (*(File({"w": w}) for w in others), File({"w": FIRST["moved"]}, compress="none")):
        with pytest.raises(Corrupt, match=r"refers to step 1 of its run, and .* is another"):
            on_base.load(other.data)
        # Nor is it taken when it is asked for again.
        with on_base.reader(other.data) as reader:
            for _ in range(2):
                with pytest.raises(Corrupt, match="is another"):
                    reader.load()


@pytest.mark.parametrize(
    "other",
    [{}, {"w": weights(10)}, {"w": weights(299_999)}, {"w": weights(300_001)}, {"b": b"x"}],
    ids=["nothing", "shorter", "one less", "one more", "no tensor"],
)
def test_base_of_another_form_is_refused(other):
    for later in (FIRST["moved"], SECOND["moved"]):
        on_base = File({"w": later}, 2, File({"w": FIRST["moved"]}))
        with pytest.raises(Corrupt):
            on_base.load(File(other).data)


def test_damaged_chunk_of_the_base_is_never_other_content():
    base = File(FIRST)
    on_base = File(SECOND, 2, base)
    assert {chunk.codec for chunk in on_base.chunks} == {Codec.BASE, Codec.PLANES}
    end = FOOTER.unpack(base.data[-FOOTER.size :])[0]
    places = np.random.default_rng(0).integers(8, end, 60)
    for place in places.tolist():
        damaged = bytearray(base.data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(Corrupt):
            on_base.load(bytes(damaged))


def test_a_base_that_is_damaged_is_not_written_on():
    base = File(FIRST)
    damaged = bytearray(base.data)
    damaged[50] ^= 1
    opened = Base(base.written.ref(1), io.BytesIO(damaged), base.written.hashes)
    with pytest.raises(Corrupt):
        container.write(SECOND, io.BytesIO(), compress="delta", base=opened)


def with_index(data, change):
    """The same file with a changed index and the right hash for it."""
    offset, size, _, magic = FOOTER.unpack(data[-FOOTER.size :])
    index = json.loads(data[offset : offset + size])
    change(index)
    changed = json.dumps(index, separators=(",", ":")).encode()
    footer = FOOTER.pack(offset, len(changed), xxhash.xxh3_128_digest(changed), magic)
    return data[:offset] + changed + footer


NUMBERS = [-1, 0, 1, 2, 3, 99, 2**31, 2**63, 2**70, 0.5, True, None, "0", [], [0]]
FIRST_FILE = File(FIRST)
ON_BASE = File({**SECOND, "twin": SECOND["moved"].clone()}, 2, FIRST_FILE)


# Whoever forges an index together with its hash has written another file. What refers to a storage
# of the base that there is, of the same size (here 1 of 0), is valid then, and is other content.
@pytest.mark.parametrize(
    ("storage", "value"),
    [
        (storage, value)
        for storage in range(3)
        for value in NUMBERS
        if repr(value) != str(storage)  # the one that it had
        and (storage, repr(value)) != (1, "0")
    ],
    ids=repr,
)
def test_forged_references_are_refused_and_never_other_content(storage, value):
    def forge(index):
        index["storages"][storage][-1] = value

    data = with_index(ON_BASE.data, forge)
    with pytest.raises(Corrupt):
        Reader(io.BytesIO(data), open_base=lambda _: Reader(io.BytesIO(FIRST_FILE.data))).load()


@pytest.mark.parametrize(
    "base",
    [
        None,
        [],
        [1, 2],
        [1, 2, "00", "00"],
        [-1, 9, *2 * ["0" * 32]],
        [1, 0, *2 * ["0" * 32]],
        [1, 9, "zz" * 16, "0" * 32],
        [1, 9, "0" * 32, "zz" * 16],
        [1, 9, "0" * 30, "0" * 32],
        [1, 9, "0" * 32, "0" * 30],
        [1, 9, "0" * 32],
        [1, 9, *3 * ["0" * 32]],
        [1, 9, "0" * 32, 7],
        [True, 9, *2 * ["0" * 32]],
        [1, 9.5, *2 * ["0" * 32]],
        {"step": 1},
        7,
    ],
    ids=repr,
)
def test_forged_name_of_a_base_is_refused(base):
    data = with_index(ON_BASE.data, lambda index: index.update(base=base))
    with pytest.raises(Corrupt):
        Reader(io.BytesIO(data))


def storage_with(*content):
    def change(index):
        index["storages"][-1] = list(content)

    return change


@pytest.mark.parametrize(
    "change",
    [
        storage_with(4, 3),
        storage_with(4, 4),
        storage_with(4, -1),
        storage_with(4, 0, 0),
        storage_with(4, 2**70),
        storage_with(4, json.loads("true")),
        storage_with(4),
        storage_with(4, [], 0, 0),
    ],
    ids=["itself", "a later one", "negative", "on a base", "huge", "a boolean", "none", "two"],
)
def test_twin_of_a_storage_that_is_none_is_refused(change):
    with pytest.raises(Corrupt):
        Reader(io.BytesIO(with_index(ON_BASE.data, change)))


def test_twin_of_a_twin_is_refused():
    def change(index):
        index["storages"] += [[4, len(index["storages"]) - 1]]

    with pytest.raises(Corrupt, match="the same as"):
        Reader(io.BytesIO(with_index(ON_BASE.data, change)))
