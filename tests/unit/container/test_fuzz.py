"""Thousands of damaged files: each is refused as such, and none costs memory or the process."""

import functools
import io
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import xxhash

from penstock import container
from penstock.container import Base, Profile, Reader
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, Unsupported

REFUSALS = (Corrupt, InvalidInput, LimitExceeded, Unsupported)
PROFILES = get_args(Profile)
FOOTER = struct.Struct("<QQ16s8s")
MEMORY_BYTES = 16 << 20
CHANGES = 5_000
"""Over all kinds of files."""


def numbers(seed, count=1500):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02


def tied():
    weight = numbers(1, 600).reshape(20, 30)
    return {"in": weight, "out": weight, "view": weight[3:7], "turned": weight.t()}


STATES = {
    "weights": lambda: {"model": {"w": numbers(2), "b": numbers(3, 7)}, "step": 12, "lr": 3e-4},
    "tied": tied,
    "bytes": lambda: {"long": bytes(range(256)) * 40, "short": b"\0\xff", "text": "grüße\n" * 9},
    "empty": lambda: {
        "none": torch.zeros(0, 3),
        "array": np.zeros((4, 0)),
        "scalar": torch.tensor(2.5),
        "nothing": {},
    },
    "values": lambda: [2**200, -0.0, 1 + 2j, None, True, (1, "x"), {1: {"a": [torch.Size([2])]}}],
    "arrays": lambda: {
        "half": numbers(4).to(torch.bfloat16),
        "bits": np.arange(999) % 2 == 0,
        "ints": torch.arange(900),
        "texts": np.array(["ab", "c"]),
    },
}
KINDS = [(state, profile) for state in STATES for profile in PROFILES] + [("on a base", "delta")]


def moved(state):
    """A later step of the same run: one tensor as it was, one a little further."""
    later = STATES[state]()
    later["model"]["w"] = later["model"]["w"] * 1.001
    return later


@functools.cache
def written(state, profile):
    """The bytes of a small file, and those of its base if it has one."""
    file = io.BytesIO()
    if state != "on a base":
        container.write(STATES[state](), file, compress=profile)
        return file.getvalue(), None
    first = io.BytesIO()
    done = container.write(STATES["weights"](), first, compress="small")
    base = Base(done.ref(1), first, done.hashes)
    container.write(moved("weights"), file, compress="delta", base=base)
    return file.getvalue(), first.getvalue()


def open_file(data, base):
    return Reader(io.BytesIO(data), open_base=lambda _: Reader(io.BytesIO(base)))


def changes(data, count, seed):
    """Copies with one bit flipped; every fourth is cut off instead."""
    chooser = random.Random(seed)  # noqa: S311 - a test's dice
    for number in range(count):
        if number % 4 == 3:
            yield data[: chooser.randrange(len(data))]
        else:
            changed = bytearray(data)
            changed[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
            yield bytes(changed)


@pytest.mark.parametrize(("state", "profile"), KINDS, ids=str)
def test_each_flipped_bit_and_each_cut_is_refused(state, profile):
    data, base = written(state, profile)
    with open_file(data, base) as reader:
        reader.verify()
        reader.load()
    tracemalloc.start()
    try:
        for changed in changes(data, -(-CHANGES // len(KINDS)), f"{state} {profile}"):
            with pytest.raises(REFUSALS), open_file(changed, base) as reader:
                reader.verify()
            with pytest.raises(REFUSALS), open_file(changed, base) as reader:
                reader.load()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES


def test_damage_of_a_base_is_found_by_those_that_need_it():
    data, base = written("on a base", "delta")
    with open_file(data, base) as reader:
        expected = reader.load()
        needed = [storage.base for storage in reader.index.storages]
    assert None not in needed
    refused = 0
    for changed in changes(base, 300, "base"):
        with open_file(data, changed) as reader:
            try:
                found = reader.load()
            except REFUSALS:
                refused += 1
            else:
                # A byte that this file has no need of.
                assert torch.equal(found["model"]["w"], expected["model"]["w"])
    assert refused == 300


def with_right_hash(data, change):
    """A file whose index ``change`` made, with footer and hash as they should be."""
    offset, size, _, magic = FOOTER.unpack(data[-FOOTER.size :])
    index = change(data[offset : offset + size])
    return (
        data[:offset]
        + index
        + FOOTER.pack(offset, len(index), xxhash.xxh3_128_digest(index), magic)
    )


FORGED = """
import sys
sys.path.insert(0, sys.argv[1])
import test_fuzz
for state, profile in test_fuzz.FORGED_KINDS:
    print(state, profile, *test_fuzz.read_forged(state, profile), sep=", ", flush=True)
"""
FORGED_FILES = 200
FORGED_KINDS = [
    ("weights", "small"),
    ("weights", "fast"),
    ("weights", "policy-bf16"),
    ("tied", "none"),
    ("bytes", "small"),
    ("empty", "none"),
    ("values", "none"),
    ("arrays", "small"),
    ("on a base", "delta"),
]


def test_forged_files_with_right_hashes_are_refused_or_read_and_nothing_else():
    """In a process of its own, with little memory: a decoder that crashes is found too."""
    done = subprocess.run(
        [sys.executable, "-c", FORGED, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
    lines = [line.split(", ") for line in done.stdout.splitlines()]
    assert [(state, profile) for state, profile, *_ in lines] == FORGED_KINDS
    for *_, read, refused in lines:
        assert int(read) + int(refused) == 2 * FORGED_FILES
        assert int(refused) > FORGED_FILES / 2


def read_forged(state, profile):
    """Read files whose hashes are right and whose content was changed on purpose."""
    data, base = written(state, profile)
    with open_file(data, base) as reader:
        reader.load()
        storages = reader.index.storages
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), most))
    chooser = random.Random(f"{state} {profile}")  # noqa: S311 - a test's dice
    read = refused = 0
    for number in range(FORGED_FILES):
        if number % 2 and any(storage.chunks for storage in storages):
            forged = with_forged_chunk(data, chooser, storages)
        else:
            forged = with_right_hash(data, functools.partial(with_forged_index, chooser))
        for load in (Reader.verify, Reader.load):
            try:
                with open_file(forged, base) as reader:
                    load(reader)
                read += 1
            except REFUSALS:
                refused += 1
    return read, refused


def with_forged_index(chooser, index):
    changed = bytearray(index)
    for _ in range(chooser.randint(1, 3)):
        place = chooser.randrange(len(changed))
        if chooser.random() < 0.3:
            changed[place] = chooser.choice(b'0123456789"[]{},:-.eE')
        elif chooser.random() < 0.5:
            changed[place : place + chooser.randint(0, 3)] = chooser.choice(
                [b"9" * 25, b"-1", b"null", b"NaN", b"1e999", b"[]", b"{}", b"true", b'""', b""]
            )
        else:
            changed[place] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def with_forged_chunk(data, chooser, storages):
    places = []
    for storage in storages:
        offset = storage.offset_bytes
        for chunk in storage.chunks:
            if chunk.stored_bytes:
                places.append((offset, chunk))
            offset += chunk.stored_bytes
    if not places:
        return data
    offset, chunk = chooser.choice(places)
    changed = bytearray(data)
    # The head of a chunk says sizes and coders: most faults of a decoder lie there.
    reach = min(chunk.stored_bytes, chooser.choice([32, 64, chunk.stored_bytes]))
    for _ in range(chooser.randint(1, 4)):
        changed[offset + chooser.randrange(reach)] = chooser.randrange(256)
    stored = bytes(changed[offset : offset + chunk.stored_bytes])
    right = f"{xxhash.xxh3_64_intdigest(stored):016x}".encode()
    wrong = f"{chunk.xxh3_64:016x}".encode()
    return with_right_hash(bytes(changed), lambda index: index.replace(wrong, right))
