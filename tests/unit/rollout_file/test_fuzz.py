"""Thousands of damaged files: each is refused as such, and none costs memory or the process."""

import functools
import io
import json
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xxhash
from unit.rollout_file.made import encoded, numbers

from penstock.errors import Corrupt
from penstock.rollout_file import Decoder, Encoding, Index, Limits, read, read_index, verify

FOOTER = struct.Struct("<Q16s8s")
CODECS = ("raw", "lz4", "zstd")
CHANGES = 1_000
MEMORY_BYTES = 16 << 20


@functools.cache
def written(codec):
    rng = np.random.default_rng(11)
    state = numbers(rng, "again", "float32", (17, 40, 12))
    after = np.roll(state, -1, 1)
    after[rng.random((17, 40)) < 0.1] = 2.5
    leaves = {
        "state": state,
        "next/state": after,
        "done": rng.random((17, 40)) < 0.1,
        "image": numbers(rng, "still", "uint8", (17, 40, 5, 14)),
        "wide": numbers(rng, "smooth", "int64", (17, 40, 3)),
    }
    return encoded(leaves, Encoding(codec), meta={"by": "test"})[0]


def changes(data, count, seed):
    """Copies with one bit flipped; every fourth is cut off, every fifth has a piece moved."""
    chooser = random.Random(seed)  # noqa: S311 - a test's dice
    for number in range(count):
        changed = bytearray(data)
        place = chooser.randrange(len(data))
        if number % 4 == 3:
            del changed[place:]
        elif number % 5 == 4:
            size = chooser.randint(1, 400)
            other = chooser.randrange(len(data) - size)
            changed[place : place + size] = data[other : other + len(changed[place : place + size])]
        else:
            changed[place] ^= 1 << chooser.randrange(8)
        if changed != data:
            yield bytes(changed)


@pytest.mark.parametrize("codec", CODECS)
def test_each_flipped_bit_each_cut_and_each_splice_is_refused(codec):
    data = written(codec)
    verify(io.BytesIO(data))
    read(io.BytesIO(data))
    tracemalloc.start()
    try:
        for changed in changes(data, CHANGES, codec):
            with pytest.raises(Corrupt):
                verify(io.BytesIO(changed))
            with pytest.raises(Corrupt):
                read(io.BytesIO(changed))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES


def test_damage_is_told_with_its_place():
    data = bytearray(written("zstd"))
    index = read_index(io.BytesIO(data))
    number = int(np.flatnonzero(index.segments.field == 3)[1])
    data[int(index.offsets[number]) + 5] ^= 1
    place = "image of environments 16 to 16, steps 0 to 39, at byte"
    for call in (verify, read):
        with pytest.raises(Corrupt, match=place):
            call(io.BytesIO(data))


def with_right_hash(data, change):
    """A file whose index ``change`` made, with footer and hash as they should be."""
    size, _, magic = FOOTER.unpack(data[-FOOTER.size :])
    index = change(data[-FOOTER.size - size : -FOOTER.size])
    footer = FOOTER.pack(len(index), xxhash.xxh3_128_digest(index), magic)
    return data[: -FOOTER.size - size] + index + footer


def with_json(data, change):
    """A file in whose index ``change`` altered the JSON."""

    def altered(index):
        (size,) = struct.unpack_from("<I", index)
        head = json.loads(index[4 : 4 + size])
        change(head)
        text = json.dumps(head).encode()
        return struct.pack("<I", len(text)) + text + index[4 + size :]

    return with_right_hash(data, altered)


def field(place, value, number=0):
    def change(head):
        head["fields"][number][place] = value

    return change


NAME, DTYPE, SHAPE, CODEC, STORED, NEXT, CHUNK_ENVS, CHUNK_STEPS = range(8)
ABSURD = {
    "version": lambda head: head.update(version=2),
    "no envs": lambda head: head.pop("envs"),
    "envs": lambda head: head.update(envs=2**62),
    "envs of text": lambda head: head.update(envs="17"),
    "negative steps": lambda head: head.update(steps=-1),
    "true steps": lambda head: head.update(steps=True),
    "meta": lambda head: head.update(meta=[]),
    "no fields": lambda head: head.update(fields=[]),
    "fields": lambda head: head.update(fields=7),
    "short field": lambda head: head["fields"][0].pop(),
    "same names": field(NAME, "done"),
    "empty name": field(NAME, ""),
    "long name": field(NAME, "n" * 5000),
    "dtype": field(DTYPE, "object"),
    "other dtype": field(DTYPE, "float64"),
    "shape": field(SHAPE, [2**40, 2**40]),
    "shape of floats": field(SHAPE, [1.5]),
    "negative shape": field(SHAPE, [-12]),
    "many axes": field(SHAPE, [1] * 60),
    "empty and huge": field(SHAPE, [0, 2**39, 2**39]),
    "codec": field(CODEC, "lzma"),
    "stored": field(STORED, "uint32"),
    "int as half": field(STORED, "float16", 4),
    "next of itself": field(NEXT, "state"),
    "next of nothing": field(NEXT, "none", 1),
    "next of another form": field(NEXT, "image", 1),
    "next of a number": field(NEXT, 3, 1),
    "no chunk": field(CHUNK_ENVS, 0),
    "chunk": field(CHUNK_ENVS, 18),
    "large chunk": field(CHUNK_STEPS, 41),
    "other grid": field(CHUNK_STEPS, 20),
}


@pytest.mark.parametrize("what", ABSURD)
def test_an_index_that_cannot_be_is_refused(what):
    with pytest.raises(Corrupt, match="index of the rollout is malformed"):
        read_index(io.BytesIO(with_json(written("lz4"), ABSURD[what])))


@pytest.mark.parametrize(
    "limits", [Limits(raw_size_bytes=10_000), Limits(envs=16), Limits(fields=4)]
)
def test_what_is_beyond_the_limits_is_refused(limits):
    with pytest.raises(Corrupt, match="malformed"):
        read(io.BytesIO(written("lz4")), limits=limits)


def test_an_index_needs_the_file_that_it_tells_of():
    data = written("lz4")
    index = read_index(io.BytesIO(data))
    for size in (0, len(data) - 1, len(data) + 1):
        with pytest.raises(Corrupt, match="its segments fill"):
            Index.parse(index.data, size)


@pytest.mark.parametrize("size", [0, 1, 8, 40, 100])
def test_other_files_are_refused(size):
    with pytest.raises(Corrupt):
        read_index(io.BytesIO(bytes(size)))


FORGED = """
import sys
sys.path.insert(0, sys.argv[1])
from unit.rollout_file import test_fuzz
for codec in test_fuzz.CODECS:
    print(codec, *test_fuzz.read_forged(codec), sep=", ", flush=True)
"""
FORGED_FILES = 400


@pytest.mark.parametrize("native", ["0", "portable", ""])
def test_forged_files_with_right_hashes_are_refused_or_read_and_nothing_else(native, monkeypatch):
    """In a process of its own, with little memory: a decoder that crashes is found too."""
    monkeypatch.setenv("PENSTOCK_NATIVE", native)
    done = subprocess.run(
        [sys.executable, "-c", FORGED, str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
    lines = [line.split(", ") for line in done.stdout.splitlines()]
    assert [codec for codec, *_ in lines] == list(CODECS)
    for codec, taken, refused in lines:
        assert int(taken) + int(refused) == FORGED_FILES
        # What is stored as it is reads as something else.
        assert int(refused) > (0 if codec == "raw" else FORGED_FILES / 10)


def read_forged(codec):
    """Read files whose hashes are right and whose content was changed on purpose."""
    data = written(codec)
    index = read_index(io.BytesIO(data))
    read(io.BytesIO(data))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), most))
    chooser = random.Random(codec)  # noqa: S311 - a test's dice
    taken = refused = 0
    for number in range(FORGED_FILES):
        forged = (
            with_forged_segments(data, index, chooser)
            if number % 4
            else with_right_hash(data, functools.partial(with_forged_index, chooser))
        )
        try:
            read(io.BytesIO(forged))
            taken += 1
        except Corrupt:
            refused += 1
    return taken, refused


def with_forged_index(chooser, index):
    changed = bytearray(index)
    for _ in range(chooser.randint(1, 3)):
        place = chooser.randrange(len(changed))
        if chooser.random() < 0.5:
            changed[place : place + chooser.randint(0, 3)] = chooser.choice(
                [b"9" * 25, b"-1", b"null", b"NaN", b"1e999", b"[]", b"{}", b"true", b'""', b""]
            )
        else:
            changed[place] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def with_forged_segments(data, index, chooser):
    changed, hashes = bytearray(data), index.hashes.copy()
    for number in {chooser.randrange(len(index.sizes)) for _ in range(3)}:
        begin, size = int(index.offsets[number]), int(index.sizes[number])
        # The first bytes say sizes and ways: most faults of a decoder lie there.
        reach = min(size, chooser.choice([12, 48, size]))
        for _ in range(chooser.randint(1, 3)):
            changed[begin + chooser.randrange(reach)] = chooser.randrange(256)
        hashes[number] = xxhash.xxh3_64_intdigest(changed[begin : begin + size])
    wrong, right = index.hashes.astype("<u8").tobytes(), hashes.astype("<u8").tobytes()
    return with_right_hash(bytes(changed), lambda found: found.replace(wrong, right))


def test_a_damaged_piece_is_told_while_others_still_arrive():
    data = bytearray(written("lz4"))
    index = read_index(io.BytesIO(data))
    data[9] ^= 255
    for threads in (1, 2):
        decoder = Decoder(index, threads=threads)

        def all_of_it(decoder=decoder):
            for offset, size in index.ranges():
                decoder.feed(offset, data[offset : offset + size])
            decoder.finish()

        with pytest.raises(Corrupt, match="state of environments 0 to"):
            all_of_it()
