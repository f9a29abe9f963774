"""Damage is found wherever it is; nothing that comes from outside crashes or allocates at will."""

import io
import json
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch
import xxhash

from penstock import container
from penstock.container import MAGIC, Limits
from penstock.errors import Corrupt, InvalidInput, LimitExceeded

FOOTER = struct.Struct("<QQ16s8s")


def intact_bytes(compress="small"):
    state = {
        "w": torch.randn(3000, generator=torch.Generator().manual_seed(1)),
        "a": np.arange(700),
        "nested": [{"k": (1, 2.5, "s", b"b")}, torch.Size([1]), torch.float32],
    }
    file = io.BytesIO()
    container.write(state, file, compress=compress)
    return file.getvalue()


def assert_corrupt(data):
    with pytest.raises(Corrupt) as refused:
        container.read(io.BytesIO(data))
    assert refused.value.message
    with pytest.raises(Corrupt):
        container.verify(io.BytesIO(data))


def with_index(change, chunks=b""):
    """A file whose index is valid by its hash, but made by ``change``."""
    index = {"meta": {}, "tree": None, "tensors": [], "storages": []}
    change(index)
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    offset = len(MAGIC) + len(chunks)
    footer = FOOTER.pack(offset, len(data), xxhash.xxh3_128_digest(data), b"PSTK\x01END")
    return MAGIC + chunks + data + footer


def chunk(raw, stored=None, codec=0, filter_=0, size=None):
    stored = raw if stored is None else stored
    return [
        filter_,
        codec,
        len(stored),
        len(raw) if size is None else size,
        xxhash.xxh3_64_hexdigest(stored),
    ]


def test_truncation_at_any_place_is_found():
    data = intact_bytes()
    for length in [*range(64), *range(64, len(data), 97), *range(len(data) - 64, len(data))]:
        assert_corrupt(data[:length])


@pytest.mark.parametrize("compress", ["small", "fast", "delta", "none"])
def test_any_flipped_bit_is_found(compress):
    data = intact_bytes(compress)
    chooser = random.Random(7)  # noqa: S311 - a test's dice
    places = {*range(16), *range(len(data) - 48, len(data)), *chooser.sample(range(len(data)), 150)}
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << chooser.randrange(8)
        # The first byte may turn the magic into that of a pickle, which has a refusal of its own.
        if damaged[:1] == b"\x80":
            continue
        assert_corrupt(bytes(damaged))


def test_appended_and_inserted_bytes_are_found():
    data = intact_bytes()
    for damaged in (data + b"\0", data[:100] + b"\0" + data[100:], data[:8] + data[9:], data * 2):
        assert_corrupt(damaged)


def test_random_bytes_are_no_checkpoint():
    chooser = random.Random(3)  # noqa: S311 - a test's dice
    for size in (0, 1, 7, 8, 47, 48, 49, 1000):
        for _ in range(20):
            noise = chooser.randbytes(size).replace(b"\x80", b"\x81").replace(b"P", b"Q")
            assert_corrupt(noise)
            assert_corrupt(MAGIC + noise)
            assert_corrupt(MAGIC + noise + FOOTER.pack(8, len(noise), b"\0" * 16, b"PSTK\x01END"))


HUGE = 2**62
ABSURD = {
    "shape": lambda i: i.update(tensors=[["torch", "float32", [HUGE], 0, 0, None, False]]),
    "empty huge shape": lambda i: i.update(
        storages=[[4, []]], tensors=[["torch", "float32", [0, HUGE, HUGE], 0, 0, None, False]]
    ),
    "stride": lambda i: i.update(
        storages=[[4, []]], tensors=[["torch", "float32", [2, 2], 0, 0, [HUGE, 1], False]]
    ),
    "negative shape": lambda i: i.update(tensors=[["torch", "float32", [-1], 0, 0, None, False]]),
    "no such storage": lambda i: i.update(tensors=[["torch", "float32", [1], 9, 0, None, False]]),
    "offset": lambda i: i.update(
        storages=[[4, []]], tensors=[["torch", "float32", [], 0, HUGE, None, False]]
    ),
    "axes": lambda i: i.update(
        storages=[[4, []]], tensors=[["torch", "float32", [0] * 65, 0, 0, None, False]]
    ),
    "numpy dtype": lambda i: i.update(
        storages=[[1, []]], tensors=[["numpy", "|O", [0], 0, 0, None, False]]
    ),
    "numpy item size": lambda i: i.update(
        storages=[[1, []]], tensors=[["numpy", "|S999999999", [999999], 0, 0, None, False]]
    ),
    "chunk larger than a chunk": lambda i: i.update(storages=[[1, [[0, 0, 8, 1 << 30, "0"]]]]),
    "chunk stored larger than raw": lambda i: i.update(storages=[[1, [[0, 0, 9, 8, "0"]]]]),
    "chunk beyond the file": lambda i: i.update(storages=[[1, [[0, 1, 99, 100, "0"]]]]),
    "negative chunk": lambda i: i.update(storages=[[1, [[0, 0, -8, -8, "0"]]]]),
    "chunk with fields missing": lambda i: i.update(storages=[[1, [[0, 0, 1]]]]),
    "unknown codec": lambda i: i.update(storages=[[1, [[0, 77, 1, 1, "0"]]]]),
    "item size": lambda i: i.update(storages=[[0, []]]),
    "gradient of integers": lambda i: i.update(
        storages=[[1, []]], tensors=[["torch", "int8", [0], 0, 0, None, True]]
    ),
    "tree tag": lambda i: i.update(tree={"q": 1}),
    "tree with two tags": lambda i: i.update(tree={"l": [], "u": []}),
    "tree without a tensor": lambda i: i.update(tree={"t": 0}),
    "tree with a boolean for a tensor": lambda i: i.update(tree={"t": True}),
    "tree without a storage": lambda i: i.update(tree={"B": 0}),
    "tree with a bare float": lambda i: i.update(tree=0.5),
    "tree with a bare list": lambda i: i.update(tree=[1]),
    "tree with an odd pair": lambda i: i.update(tree={"d": [[1]]}),
    "tree with a list as key": lambda i: i.update(tree={"d": [[{"l": []}, 1]]}),
    "tree with a hidden list as key": lambda i: i.update(tree={"d": [[{"u": [{"l": []}]}, 1]]}),
    "float": lambda i: i.update(tree={"f": "1.z"}),
    "integer": lambda i: i.update(tree={"i": "zz"}),
    "digits": lambda i: i.update(tree={"i": "f" * 100_000}),
    "hex": lambda i: i.update(tree={"b": "0"}),
    "torch dtype": lambda i: i.update(tree={"y": "load"}),
    "torch device": lambda i: i.update(tree={"v": "../../etc"}),
    "numpy scalar": lambda i: i.update(tree={"n": ["<f8", "00"]}),
    "size": lambda i: i.update(tree={"z": [-1]}),
    "no tree": lambda i: i.pop("tree"),
    "tensors of the wrong kind": lambda i: i.update(tensors={"a": 1}),
    "tensor of the wrong kind": lambda i: i.update(tensors=[7]),
    "storages of the wrong kind": lambda i: i.update(storages=3),
    "meta of the wrong kind": lambda i: i.update(meta=[]),
}


@pytest.mark.parametrize("absurd", ABSURD.values(), ids=ABSURD.keys())
def test_index_that_lies_is_refused_without_a_large_allocation(absurd):
    data = with_index(absurd)
    tracemalloc.start()
    try:
        assert_corrupt(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8_000_000


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 200_000, b"\xff\xfe"])
def test_index_that_is_no_index_is_refused(text):
    offset = len(MAGIC)
    footer = FOOTER.pack(offset, len(text), xxhash.xxh3_128_digest(text), b"PSTK\x01END")
    assert_corrupt(MAGIC + text + footer)


def test_deep_tree_is_refused():
    def deep(index):
        node = 1
        for _ in range(65):
            node = {"l": [node]}
        index["tree"] = node

    assert_corrupt(with_index(deep))


@pytest.mark.parametrize(
    ("codec", "stored"),
    [
        (1, b"\xff" * 90),
        (1, b"\x00"),
        (2, b"\xff" * 90),
        (2, b"\x05\x01" * 40),
        (2, b"x"),
        (4, b"\xff" * 90),
        (4, b"\x04" + bytes(20)),
        (4, b"x"),
    ],
)
def test_chunk_that_does_not_decode_is_refused(codec, stored):
    raw = b"\0" * 100

    def index(i):
        i["storages"] = [[4, [chunk(raw, stored, codec)]]]
        i["tensors"] = [["torch", "float32", [25], 0, 0, None, False]]
        i["tree"] = {"t": 0}

    with pytest.raises(Corrupt):
        container.read(io.BytesIO(with_index(index, stored)))


def test_tensor_and_array_in_one_storage_are_kept_apart():
    def index(i):
        i["storages"] = [[4, [chunk(b"\1\0\0\0")]]]
        i["tensors"] = [
            ["torch", "int32", [1], 0, 0, None, False],
            ["numpy", "<i4", [1], 0, 0, None, False],
        ]
        i["tree"] = {"l": [{"t": 0}, {"t": 1}]}

    tensor, array = container.read(io.BytesIO(with_index(index, b"\1\0\0\0")))
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(array, np.ndarray)
    assert tensor.tolist() == array.tolist() == [1]


def test_bomb_beyond_the_limit_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    container.write(torch.zeros(1_000_000), file)
    assert len(file.getvalue()) < 10_000
    with pytest.raises(LimitExceeded, match="decodes to 4000000 bytes, the limit is 1000000"):
        container.read(file, limits=Limits(raw_size_bytes=1_000_000))


def test_index_beyond_the_limit_is_not_read():
    file = io.BytesIO()
    container.write(list(range(1000)), file)
    with pytest.raises(LimitExceeded, match="index has"):
        container.read(file, limits=Limits(index_size_bytes=100))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: torch.save({"w": torch.ones(3)}, path),
        lambda path: torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
    ],
    ids=["pt", "legacy pt", "pickle"],
)
def test_pickle_is_refused_with_the_way_out_and_never_executed(make, tmp_path):
    path = tmp_path / "model.pstk"
    make(path)
    with pytest.raises(InvalidInput, match=r"penstock checkpoints convert FILE\.pt") as refused:
        container.verify(path)
    assert refused.value.reason == "PICKLE_REFUSED"
    assert str(path) in refused.value.message


def test_damage_names_the_file_and_the_place(tmp_path):
    path = tmp_path / "model.pstk"
    data = bytearray(intact_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"model.pstk: the chunk at byte 8 \(storage 0\)"):
        container.verify(path)


def test_damaged_tensor_does_not_take_the_others_along(tmp_path):
    path = tmp_path / "model.pstk"
    state = {"good": torch.ones(100), "bad": torch.arange(100.0)}
    container.write_file(state, path, compress="none")
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(100.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        container.read(path)
    assert container.read(path, only=("good",)).tolist() == [1.0] * 100
