"""Chunks come out of every filter and codec as they went in, and damage is said as such."""

import base64
import contextlib
import io
import struct
import sys
import tracemalloc
import zlib

import blosc2
import lz4.block
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import container
from penstock.container import older
from penstock.container.codecs import Codec, Encoder, Filter, Method, decode_chunk
from penstock.container.planes import Packing
from penstock.errors import Corrupt, PenstockError, Unsupported

PACKINGS = list(Packing)
ITEMS = [1, 2, 3, 4, 8, 12, 16, 17, 300]
SPLIT_ITEMS = [2, 4, 8, 16]
ENCODER = Encoder()
"""One for all: what it keeps from chunk to chunk must not show."""
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 5e-324, 1e-45, 3.4e38, 1.7e308, 1.0, -1.0]
)


def delta(item):
    return Method(Filter.DELTA, (Packing.ENTROPY,) * item, (Packing.ZSTD,))


BF16 = Method(Filter.BF16, (Packing.ENTROPY, Packing.ENTROPY))


def encode_chunk(raw, item, method, base=None):
    """Filter, codec and stored bytes."""
    filter_, codec, pieces, size = ENCODER.encode(raw, item, method, base)
    stored = b"".join(pieces)
    assert len(stored) == size
    return filter_, codec, stored


def decoded(chunk, size, item, base=None):
    filter_, codec, stored = chunk
    # What lies there before must not show.
    out = np.full(size, 0xA5, np.uint8)
    decode_chunk(bytes(stored), out, item, filter_, codec, base)
    return out.tobytes()


def contents():
    """Bytes of any length: noise, runs, numbers that resemble one another, odd numbers."""
    noise = st.binary(max_size=2000)
    runs = st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 900)), max_size=5).map(
        lambda parts: b"".join(piece * count for piece, count in parts)
    )
    dtypes = st.sampled_from([np.float16, np.float32, np.float64])
    seeds, counts = st.integers(0, 99), st.integers(0, 700)
    weights = st.builds(
        lambda seed, count, dtype: (
            np.random.default_rng(seed).normal(0, 0.02, count).astype(dtype).tobytes()
        ),
        *(seeds, counts, dtypes),
    )
    special = st.builds(
        lambda picks, dtype: SPECIAL[picks].astype(dtype).tobytes(),
        st.lists(st.integers(0, len(SPECIAL) - 1), max_size=400),
        st.sampled_from([np.float32, np.float64]),
    )
    return st.builds(
        lambda head, rest: head + rest, st.binary(max_size=7), noise | runs | weights | special
    )


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("item", ITEMS)
@settings(max_examples=60)
@given(raw=contents(), packing=st.sampled_from(PACKINGS))
def test_every_packing_of_bytes_in_their_order_gives_back_every_bit(item, raw, packing):
    chunk = encode_chunk(memoryview(raw), item, Method(Filter.NONE, (packing,)))
    assert decoded(chunk, len(raw), item) == raw
    assert len(chunk[2]) <= len(raw)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("item", SPLIT_ITEMS)
@settings(max_examples=80)
@given(raw=contents(), packings=st.lists(st.sampled_from(PACKINGS), min_size=16, max_size=16))
def test_every_packing_of_each_plane_gives_back_every_bit(item, raw, packings):
    """Whole elements or not: what cannot be split is encoded in its order."""
    chunk = encode_chunk(memoryview(raw), item, Method(Filter.NONE, tuple(packings[:item])))
    assert decoded(chunk, len(raw), item) == raw
    assert len(chunk[2]) <= len(raw)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("item", [1, *SPLIT_ITEMS])
def test_full_chunk_gives_back_every_bit(item, packing):
    raw = np.random.default_rng(0).normal(0, 0.02, 1 << 18).astype(np.float32).view(np.uint8)
    for content in (raw, np.zeros_like(raw), np.sort(raw)):
        chunk = encode_chunk(content.data, item, Method(Filter.NONE, (packing,) * item))
        assert decoded(chunk, len(raw), item) == content.tobytes()


def test_stored_bytes_are_what_the_format_says():
    """Two planes of 300 bytes: 0, 1, 2 ... wound up as they are, and zeros as LZ4."""
    raw = np.zeros((300, 2), np.uint8)
    raw[:, 0] = np.arange(300) % 251
    method = Method(Filter.NONE, (Packing.RAW, Packing.LZ4))
    filter_, codec, stored = encode_chunk(raw.reshape(-1).data, 2, method)
    assert (filter_, codec) == (Filter.NONE, Codec.PLANES)
    zeros = lz4.block.compress(bytes(300), store_size=False)
    head = struct.pack("<BBIBI", 2, 0, 300, 2, len(zeros))
    assert stored == head + bytes(raw[:, 0]) + zeros


def test_zeros_among_noise_take_almost_nothing():
    """A plane that is left alone where it is noise is not left alone where it is not."""
    for packing in (Packing.ENTROPY, Packing.PACKED):
        method = Method(Filter.NONE, (*3 * (Packing.RAW,), packing))
        chunk = encode_chunk(bytes(1 << 20), 4, method)
        assert len(chunk[2]) < 1 << 15
        assert decoded(chunk, 1 << 20, 4) == bytes(1 << 20)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("item", [2, 4, 8])
@settings(max_examples=40)
@given(raw=contents(), seed=st.integers(0, 2**32 - 1), near=st.booleans())
def test_difference_to_any_base_gives_back_every_bit(item, raw, seed, near):
    base = np.random.default_rng(seed).integers(0, 256, len(raw), np.uint8)
    if near:
        base = np.frombuffer(raw, np.uint8) ^ (base & np.uint8(1))
    chunk = encode_chunk(memoryview(raw), item, delta(item), base)
    assert decoded(chunk, len(raw), item, base) == raw


@pytest.mark.parametrize("subtrahend", [0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF])
def test_difference_wraps_for_all_integers_of_16_bits(subtrahend):
    raw = np.arange(1 << 16, dtype=np.uint16)
    base = np.full(1 << 16, subtrahend, np.uint16).view(np.uint8)
    chunk = encode_chunk(raw.view(np.uint8).data, 2, delta(2), base)
    assert chunk[0] == Filter.DELTA, "nothing was subtracted"
    assert decoded(chunk, raw.nbytes, 2, base) == raw.tobytes()


@pytest.mark.parametrize("item", [2, 4, 8])
def test_difference_of_extremes_is_what_the_format_says(item):
    """Elements minus the base's as unsigned numbers, signs folded: 0, -1, 1, -2 as 0, 1, 2, 3."""
    bits = 8 * item
    edges = [0, 1, 2, 3, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2 ** (bits - 1) + 1, 2**bits - 1]
    pairs = [(new, old) for new in edges for old in edges] * 40
    raw, base = (np.array(side, f"u{item}") for side in zip(*pairs, strict=True))
    chunk = encode_chunk(raw.view(np.uint8).data, item, delta(item), base.view(np.uint8))
    assert chunk[:2] == (Filter.DELTA, Codec.PLANES)
    expected = []
    for new, old in pairs:
        difference = (new - old) % 2**bits
        signed = difference - 2**bits if difference >= 2 ** (bits - 1) else difference
        expected.append(2 * signed if signed >= 0 else -2 * signed - 1)
    found = decoded((Filter.NONE, Codec.PLANES, chunk[2]), raw.nbytes, item)
    assert np.frombuffer(found, f"u{item}").tolist() == expected
    assert decoded(chunk, raw.nbytes, item, base.view(np.uint8)) == raw.tobytes()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_small_change_of_noise_takes_a_fraction_as_difference(dtype):
    rng = np.random.default_rng(1)
    item = np.dtype(dtype).itemsize
    base = rng.integers(0, 256, 8000 * item, np.uint8)
    raw = (base.view(f"u{item}") + rng.integers(0, 4, 8000).astype(f"u{item}")).view(np.uint8)
    chunk = encode_chunk(raw.data, item, delta(item), base)
    assert len(chunk[2]) < 8000 / 2  # two bits of each element are new
    assert decoded(chunk, len(raw), item, base) == raw.tobytes()


def torch_rounded(words):
    return torch.from_numpy(words.view(np.float32)).bfloat16().float().numpy().view(np.uint32)


def assert_rounded_as_torch_does(words):
    raw = words.view(np.uint8)
    chunk = encode_chunk(raw.data, 4, BF16)
    found = np.frombuffer(decoded(chunk, raw.nbytes, 4), np.uint32)
    is_nan = np.isnan(words.view(np.float32))
    np.testing.assert_array_equal(np.isnan(found.view(np.float32)), is_nan)
    np.testing.assert_array_equal(found[~is_nan], torch_rounded(words)[~is_nan])
    assert not (found & 0xFFFF).any()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300))
def test_rounding_to_bfloat16_is_that_of_torch(words):
    assert_rounded_as_torch_does(np.array(words, np.uint32))


def test_rounding_to_bfloat16_is_that_of_torch_at_every_edge():
    """All upper halves, with the lower halves where rounding turns: ties, overflow, NaN."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        assert_rounded_as_torch_does(upper | np.uint32(lower))


@pytest.mark.parametrize("count", [1, 3, 8, 5000])
def test_rounding_may_overflow_to_infinity_but_a_nan_never_becomes_one(count):
    words = np.array([0x7F7FFFFF, 0xFF7FFFFF, 0x7F800001, 0xFF800001] * count, np.uint32)
    chunk = encode_chunk(words.view(np.uint8).data, 4, BF16)
    found = np.frombuffer(decoded(chunk, words.nbytes, 4), np.float32)
    assert found[::4].tolist() == [np.inf] * count
    assert found[1::4].tolist() == [-np.inf] * count
    assert np.isnan(found.reshape(-1, 4)[:, 2:]).all()


OLD_FILE = (
    "c-rd>2oCY)<zlR7U}R!uVP#`yaFb_XWcdHTGk^gEARG+PgpkeqX4-IoLBS!RVZwq92QEDLz`!9Op`c-4;ouPvk&sbP"
    "(a_S-Ghxb%ISZDoShHcvjy(sCoH%pg%8fe@p1gST;meOd4EFZ+4h~EV@{WuQ;sK5z@c$#sIUJl^+&sK|`~reP!Xlz#"
    ";u4Zl(lWAg@(PMd$||aA>Kd9_+B&*=`UZwZ#wMm_<`$M#);6|w_709t&MvNQ?jD|A-afv5{sDnO!6Bhx;SrHh(J`@c"
    "@d=4Z$tkI6=^2?>**Up+`2~eV#U-U><rS4x)it$s^$m?p%`L5M?H!$6-95d1{SzimnmlFdwCOWu&YC@E?!5U67A{)6"
    "Wa+ZyD^{*ry=LvY^&2*B+Pr1!w(UE1?%KU)@4o#94jwvu<mj>ECr+L^edg@B^A|2&x_ss8wd*%--nxC~?!EgD9zJ^f"
    "<mt2LFJ8WS{pRhv_a8of`uyeVx9>lG{`&pr@4x>HjJ2S^eIw7v$WR`@2m;kgxv3?IN><giI!Yx)si{DgQi_sQbhJ{r"
    "l1{Z!iISB;ZLChTQU;V~2<9b1c}8Gf9*76glv4y^rzu$}8B`eR8JHQFq@)<7875k$B^T%#8YqF(8v<370#)ag=H%!o"
    "RVc;Q#>RrpNdoD00^1P_a!zVqaeh%T*xZu*qGX^Gl+tqY6HAPZlysskbSz?ZjC2fiz{aE{<`k!b%z!D(%quZ811d8y"
    "Fo@ML#!!}5np;o_RA!TD0aRpZ77J8?q9#^HsTgQhVtOjr0Tw#ZKzAGJ7@6ppn_1{6nHi)RSth3%r<ht;q?no|DaFQu"
    "eHI;U090jcpkr!aV4$OvWNcz)VP<Y-X=!YbW@=;xQDy=)%)&y)$ka?n$uiM0#n3#}*fQC~D9O?|5u(ZnW~I5gjs?iD"
    "RAW=46mxTv)Knm8oMZ%27F)ZT5u9ll4nk=a>79pGvU@S`s~tY_O!;RsC@V6$`ndoAZ30fE"
)


def test_file_of_the_first_version_still_reads():
    """Written with compress='lz4' by the version before the filters."""
    file = io.BytesIO(zlib.decompress(base64.b85decode(OLD_FILE)))
    with container.Reader(file) as reader:
        chunks = [chunk for storage in reader.index.storages for chunk in storage.chunks]
        assert {(Filter(c.filter), Codec(c.codec)) for c in chunks} == {
            (Filter.SHUFFLE, Codec.LZ4),
            (Filter.NONE, Codec.LZ4),
        }
        reader.verify()
        state = reader.load()
    assert torch.equal(state["w"], torch.arange(64, dtype=torch.float32).reshape(8, 8) * 0.5)
    assert torch.equal(state["h"], torch.arange(400, dtype=torch.int16))
    assert state["a"].tolist() == [number % 7 for number in range(96)]
    assert state["n"] == {"lr": 1e-3, 1: (None, "x")}
    assert state["b"] == bytes(5000)


@pytest.mark.parametrize("item", ITEMS)
@settings(max_examples=20)
@given(raw=st.binary(max_size=400), repeats=st.integers(1, 20))
def test_old_lz4_chunk_decodes_with_and_without_shuffle(item, raw, repeats):
    raw *= repeats
    plain = lz4.block.compress(raw, store_size=False)
    assert decoded((Filter.NONE, Codec.LZ4, plain), len(raw), item) == raw
    whole = raw[: len(raw) // item * item]
    planes = b"".join(whole[place::item] for place in range(item))
    shuffled = lz4.block.compress(planes, store_size=False)
    assert decoded((Filter.SHUFFLE, Codec.LZ4, shuffled), len(whole), item) == whole


def of_blosc2(raw, item, *, shuffle, zstd):
    """A chunk as earlier versions wrote it."""
    codec = blosc2.Codec.ZSTD if zstd else blosc2.Codec.LZ4
    split = blosc2.SplitMode.ALWAYS_SPLIT if zstd else blosc2.SplitMode.NEVER_SPLIT
    return blosc2.compress2(
        raw,
        codec=codec,
        clevel=1,
        filters=[shuffle],
        filters_meta=[0],
        typesize=item,
        nthreads=1,
        splitmode=split,
        blocksize=1 << 18,
    )


@pytest.mark.parametrize("zstd", [False, True], ids=["lz4", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_old_blosc2_chunk_decodes_after_every_filter(dtype, zstd):
    rng = np.random.default_rng(1)
    old = rng.normal(0, 9, 3000).astype(dtype)
    new = old.view(f"u{old.itemsize}") + rng.integers(0, 3, 3000).astype(f"u{old.itemsize}")
    raw, base, item = new.view(np.uint8), old.view(np.uint8), old.itemsize
    for filter_, shuffle in (
        (Filter.NONE, blosc2.Filter.NOFILTER),
        (Filter.SHUFFLE, blosc2.Filter.SHUFFLE),
        (Filter.BITSHUFFLE, blosc2.Filter.BITSHUFFLE),
    ):
        stored = of_blosc2(raw, item, shuffle=shuffle, zstd=zstd)
        assert decoded((filter_, Codec.BLOSC2, stored), raw.size, item) == raw.tobytes()
    if item > 1:
        difference = new - old.view(new.dtype)  # of 0, 1 and 2, which zigzag doubles
        stored = of_blosc2(2 * difference, item, shuffle=blosc2.Filter.SHUFFLE, zstd=zstd)
        assert decoded((Filter.DELTA, Codec.BLOSC2, stored), raw.size, item, base) == raw.tobytes()


def test_old_rounded_chunk_decodes():
    words = (np.arange(1000, dtype=np.uint32) + 0x3F80) << np.uint32(16)
    halves = (words >> np.uint32(16)).astype(np.uint16)
    stored = of_blosc2(halves, 2, shuffle=blosc2.Filter.SHUFFLE, zstd=True)
    assert decoded((Filter.BF16, Codec.BLOSC2, stored), words.nbytes, 4) == words.tobytes()


def test_old_chunk_without_blosc2_names_the_way_out(monkeypatch):
    older._blosc2.cache_clear()
    monkeypatch.setitem(sys.modules, "blosc2", None)
    with pytest.raises(Unsupported, match="pip install blosc2"):
        decoded((Filter.SHUFFLE, Codec.BLOSC2, b"x" * 40), 400, 4)


KINDS = [
    (Filter.NONE, Codec.NONE),
    (Filter.NONE, Codec.LZ4),
    (Filter.SHUFFLE, Codec.LZ4),
    (Filter.SHUFFLE, Codec.BLOSC2),
    (Filter.BITSHUFFLE, Codec.BLOSC2),
    *((filter_, Codec.PLANES) for filter_ in (Filter.NONE, Filter.DELTA, Filter.BF16)),
]


def right_chunk(raw, filter_, codec, item, packing):
    """The stored bytes of a chunk, as this version or an earlier one writes them."""
    if codec == Codec.PLANES:
        count = 2 if filter_ == Filter.BF16 else item
        method = Method(filter_, count * (packing,))
        return encode_chunk(raw.data, item, method, np.zeros(raw.size, np.uint8))[2]
    if codec == Codec.BLOSC2:
        return of_blosc2(raw, item, shuffle=blosc2.Filter.SHUFFLE, zstd=packing == Packing.ZSTD)
    return lz4.block.compress(raw.tobytes(), store_size=False)


@st.composite
def damaged_chunks(draw):
    """Random bytes, or a right chunk with some bytes changed, cut off or added."""
    filter_, codec = draw(st.sampled_from(KINDS))
    item = 4 if filter_ == Filter.BF16 else draw(st.sampled_from([2, 4, 8]))
    size = item * draw(st.integers(1, 300))
    if draw(st.booleans()):
        stored = draw(st.binary(min_size=1, max_size=size))
    else:
        raw = np.resize(np.arange(64, dtype=np.uint8), size)
        changed = bytearray(right_chunk(raw, filter_, codec, item, draw(st.sampled_from(PACKINGS))))
        for place, value in draw(
            st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=4)
        ):
            changed[place] = value
        stored = bytes(changed)[: draw(st.integers(0, len(changed)))] + draw(st.binary(max_size=3))
    return filter_, codec, stored, size, item


@settings(max_examples=1000)
@given(damaged_chunks())
def test_decoder_of_random_bytes_fills_or_refuses_and_stays_inside(chunk):
    filter_, codec, stored, size, item = chunk
    around = np.full(size + 128, 0xA5, np.uint8)
    base = np.zeros(size, np.uint8)
    # Anything else that is raised fails the test.
    with contextlib.suppress(PenstockError):
        decode_chunk(stored, around[64:-64], item, filter_, codec, base)
    assert set(around[:64]) == set(around[-64:]) == {0xA5}


@pytest.mark.parametrize(("filter_", "codec"), KINDS)
def test_chunk_of_another_size_is_corrupt(filter_, codec):
    raw = np.resize(np.arange(64, dtype=np.uint8), 4096)
    stored = right_chunk(raw, filter_, codec, 4, Packing.ENTROPY)
    chunk = (filter_, codec, raw.tobytes() if codec == Codec.NONE else stored)
    for size in (4, 4092, 4100, 8192):
        with pytest.raises(Corrupt):
            decoded(chunk, size, 4, np.zeros(size, np.uint8))


def planes_chunk(*planes, count=None):
    """Stored bytes of planes, each given by its coder, its bytes and the size that it claims."""
    head = bytes([len(planes) if count is None else count])
    head += b"".join(struct.pack("<BI", coder, size) for coder, _, size in planes)
    return head + b"".join(content for _, content, _ in planes)


def zstd_claiming(size_bytes, window_log=None, blocks=b"\x03\x00\x00\x41"):
    """A frame that claims to decode to ``size_bytes``, of one window if no other is given.

    The block is the last one and repeats a byte; how often is in its upper 21 bits.
    """
    magic = b"\x28\xb5\x2f\xfd"
    if window_log is None:
        return magic + b"\xa0" + struct.pack("<I", size_bytes) + blocks
    return (
        magic + b"\x80" + bytes([(window_log - 10) << 3]) + struct.pack("<I", size_bytes) + blocks
    )


def repeated(count, *, last=True):
    """A block of zstd that repeats a byte."""
    return struct.pack("<I", count << 3 | 2 | last)[:3] + b"A"


RAW, ZSTD, LZ4, BITS, PACKED = range(5)
NOISE = bytes(np.random.default_rng(3).integers(0, 256, 500, np.uint8))
FORGED_PLANES = {
    "nothing": b"",
    "no planes": planes_chunk(count=0),
    "planes of another element size": planes_chunk(*2 * [(RAW, NOISE, 500)]),
    "255 planes": bytes([255]) + NOISE,
    "head cut off": planes_chunk(*4 * [(RAW, NOISE[:250], 250)])[:20],
    "size beyond the chunk": planes_chunk((ZSTD, zstd_claiming(1000), 0xFFFFFFFF)),
    "size of zero": planes_chunk((ZSTD, b"", 0)),
    "planes that overlap": planes_chunk(*4 * [(RAW, NOISE[:249], 250)]),
    "bytes behind the planes": planes_chunk((ZSTD, zstd_claiming(1000), 12)) + b"x",
    "stored plane too short": planes_chunk((RAW, NOISE, 500)),
    "unknown coder": planes_chunk((5, NOISE, 500)),
    "coder 255": planes_chunk((255, NOISE, 500)),
    "larger than raw": planes_chunk((LZ4, NOISE * 3, 1500)),
    "zstd of gigabytes": planes_chunk((ZSTD, zstd_claiming(0x7FFFFFFF), 13)),
    "zstd of the right claim and more": planes_chunk(
        (ZSTD, zstd_claiming(1000, 20, repeated(1000, last=False) + repeated(99)), 18)
    ),
    "zstd of the right claim and less": planes_chunk((ZSTD, zstd_claiming(1000, 20), 14)),
    "zstd of a huge window": planes_chunk(
        (ZSTD, zstd_claiming(1000, 31, repeated(900, last=False)), 14)
    ),
    "zstd with another frame behind": planes_chunk(
        (ZSTD, 2 * zstd_claiming(1000, None, repeated(1000)), 26)
    ),
    "zstd that ends early": planes_chunk((ZSTD, zstd_claiming(1000, None, b""), 9)),
    "skippable frame": planes_chunk((ZSTD, b"\x50\x2a\x4d\x18" + bytes(20), 24)),
    "bits of noise": planes_chunk((BITS, NOISE, 500)),
    "packed too short": planes_chunk((PACKED, bytes(20), 20)),
    "packed with planes missing": planes_chunk((PACKED, b"\xff" * 500, 500)),
    "packed with bytes behind": planes_chunk((PACKED, bytes(2 * 15 + 40 + 1), 71)),
}


@pytest.mark.parametrize("stored", FORGED_PLANES.values(), ids=FORGED_PLANES.keys())
def test_forged_planes_are_corrupt_without_a_large_allocation(stored):
    """They claim to be 1000 bytes of elements of 4."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            decoded((Filter.NONE, Codec.PLANES, stored), 1000, 4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000


def test_what_the_forged_ones_are_made_of_decodes():
    frame = zstd_claiming(1000, None, repeated(1000))
    for coder, content in (
        (ZSTD, frame),
        (ZSTD, zstd_claiming(1000, 20, repeated(400, last=False) + repeated(600))),
        (PACKED, bytes([0x82] * 15 + [0] * 15) + b"A" * 40),
    ):
        stored = planes_chunk((coder, content, len(content)))
        assert decoded((Filter.NONE, Codec.PLANES, stored), 1000, 4) == b"A" * 1000


def test_integers_with_the_bits_of_rounded_weights_are_not_rounded():
    weights = torch.randn(1000)
    state = {"a": weights, "b": weights.view(torch.int32).clone(), "c": weights.clone()}
    file = io.BytesIO()
    container.write(state, file, compress="policy-bf16")
    found = container.read(file)
    assert torch.equal(found["b"], state["b"])
    assert torch.equal(found["a"], weights.bfloat16().float())
    assert torch.equal(found["c"], found["a"])
