import ctypes
import importlib.util
import logging

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from penstock import native
from penstock.native import hashing

HASH = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)


@pytest.fixture
def fresh():
    native.xxh3_address.cache_clear()
    yield
    native.xxh3_address.cache_clear()


@given(st.binary(max_size=5000), st.integers(0, 2**64 - 1))
def test_the_function_that_kernels_call_is_xxh3_with_a_seed(data, seed):
    assert HASH(native.xxh3_address())(data, len(data), seed) == xxhash.xxh3_64_intdigest(
        data, seed
    )


def test_a_package_without_the_function_is_said_once_and_gives_none(fresh, monkeypatch, caplog):
    monkeypatch.setattr(hashing, "_NAMES", ("no_such_function",))
    with caplog.at_level(logging.WARNING):
        assert [native.xxh3_address() for _ in range(3)] == [0, 0, 0]
    (record,) = caplog.records
    assert "it exports none of no_such_function" in record.getMessage()


@pytest.mark.parametrize("name", ["XXH64", "XXH3_128bits_withSeed"])
def test_another_function_by_that_name_is_not_used(fresh, monkeypatch, name):
    monkeypatch.setattr(hashing, "_NAMES", (name,))
    assert native.xxh3_address() == 0


def test_a_package_without_an_extension_gives_none(fresh, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert native.xxh3_address() == 0
