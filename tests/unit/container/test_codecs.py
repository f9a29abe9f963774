"""Chunks come out of every filter and codec as they went in, and damage is said as such."""

import base64
import contextlib
import io
import zlib

import blosc2
import lz4.block
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import container
from penstock.container.codecs import STORED, Codec, Filter, Method, decode_chunk, encode_chunk
from penstock.errors import Corrupt, PenstockError

METHODS = [
    STORED,
    *(
        Method(filter_, Codec.BLOSC2, zstd=zstd)
        for filter_ in (Filter.NONE, Filter.SHUFFLE, Filter.BITSHUFFLE)
        for zstd in (False, True)
    ),
]
DELTA = Method(Filter.DELTA, Codec.BLOSC2, zstd=True)
BF16 = Method(Filter.BF16, Codec.BLOSC2, zstd=True)
ITEMS = [1, 2, 3, 4, 8, 12, 16, 17, 300]
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 5e-324, 1e-45, 3.4e38, 1.7e308, 1.0, -1.0]
)


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
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.filter.name} {m.codec.name} {m[2]}")
@settings(max_examples=15, deadline=None)
@given(raw=contents())
def test_every_method_gives_back_every_bit(method, item, raw):
    chunk = encode_chunk(memoryview(raw), item, method)
    assert decoded(chunk, len(raw), item) == raw
    assert len(chunk[2]) <= len(raw)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("item", [2, 4, 8])
@settings(max_examples=40, deadline=None)
@given(raw=contents(), seed=st.integers(0, 2**32 - 1), near=st.booleans())
def test_difference_to_any_base_gives_back_every_bit(item, raw, seed, near):
    base = np.random.default_rng(seed).integers(0, 256, len(raw), np.uint8)
    if near:
        base = np.frombuffer(raw, np.uint8) ^ (base & np.uint8(1))
    chunk = encode_chunk(memoryview(raw), item, DELTA, base)
    assert decoded(chunk, len(raw), item, base) == raw


@pytest.mark.parametrize("subtrahend", [0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF])
def test_difference_wraps_for_all_integers_of_16_bits(subtrahend):
    raw = np.arange(1 << 16, dtype=np.uint16)
    base = np.full(1 << 16, subtrahend, np.uint16).view(np.uint8)
    chunk = encode_chunk(raw.view(np.uint8).data, 2, DELTA, base)
    assert chunk[0] == Filter.DELTA, "nothing was subtracted"
    assert decoded(chunk, raw.nbytes, 2, base) == raw.tobytes()


@pytest.mark.parametrize("item", [2, 4, 8])
def test_difference_of_extremes_is_what_the_format_says(item):
    """Elements minus the base's as unsigned numbers, signs folded: 0, -1, 1, -2 as 0, 1, 2, 3."""
    bits = 8 * item
    edges = [0, 1, 2, 3, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2 ** (bits - 1) + 1, 2**bits - 1]
    pairs = [(new, old) for new in edges for old in edges] * 40
    raw, base = (np.array(side, f"u{item}") for side in zip(*pairs, strict=True))
    chunk = encode_chunk(raw.view(np.uint8).data, item, DELTA, base.view(np.uint8))
    assert chunk[:2] == (Filter.DELTA, Codec.BLOSC2)
    expected = []
    for new, old in pairs:
        difference = (new - old) % 2**bits
        signed = difference - 2**bits if difference >= 2 ** (bits - 1) else difference
        expected.append(2 * signed if signed >= 0 else -2 * signed - 1)
    assert np.frombuffer(blosc2.decompress2(chunk[2]), f"u{item}").tolist() == expected
    assert decoded(chunk, raw.nbytes, item, base.view(np.uint8)) == raw.tobytes()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_small_change_of_noise_takes_a_fraction_as_difference(dtype):
    rng = np.random.default_rng(1)
    item = np.dtype(dtype).itemsize
    base = rng.integers(0, 256, 8000 * item, np.uint8)
    raw = (base.view(f"u{item}") + rng.integers(0, 4, 8000).astype(f"u{item}")).view(np.uint8)
    chunk = encode_chunk(raw.data, item, DELTA, base)
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


@settings(deadline=None)
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
@settings(max_examples=20, deadline=None)
@given(raw=st.binary(max_size=400), repeats=st.integers(1, 20))
def test_old_lz4_chunk_decodes_with_and_without_shuffle(item, raw, repeats):
    raw *= repeats
    plain = lz4.block.compress(raw, store_size=False)
    assert decoded((Filter.NONE, Codec.LZ4, plain), len(raw), item) == raw
    whole = raw[: len(raw) // item * item]
    planes = b"".join(whole[place::item] for place in range(item))
    shuffled = lz4.block.compress(planes, store_size=False)
    assert decoded((Filter.SHUFFLE, Codec.LZ4, shuffled), len(whole), item) == whole


KINDS = [
    (Filter.NONE, Codec.NONE),
    (Filter.NONE, Codec.LZ4),
    (Filter.SHUFFLE, Codec.LZ4),
    *((filter_, Codec.BLOSC2) for filter_ in Filter),
]


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
        if codec == Codec.BLOSC2:
            method = Method(filter_, codec, zstd=draw(st.booleans()))
            right = encode_chunk(raw.data, item, method, np.zeros(size, np.uint8))[2]
        else:
            right = lz4.block.compress(raw.tobytes(), store_size=False)
        changed = bytearray(right)
        for place, value in draw(
            st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=4)
        ):
            changed[place] = value
        stored = bytes(changed)[: draw(st.integers(0, len(changed)))] + draw(st.binary(max_size=3))
    return filter_, codec, stored, size, item


@settings(max_examples=600, deadline=None)
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
    if codec == Codec.NONE:
        chunk = (filter_, codec, raw.tobytes())
    elif codec == Codec.LZ4:
        chunk = (filter_, codec, lz4.block.compress(raw.tobytes(), store_size=False))
    else:
        chunk = encode_chunk(
            raw.data, 4, Method(filter_, codec, zstd=True), np.zeros(4096, np.uint8)
        )
        assert chunk[:2] == (filter_, codec)
    for size in (4, 4092, 4100, 8192):
        with pytest.raises(Corrupt):
            decoded(chunk, size, 4, np.zeros(size, np.uint8))
