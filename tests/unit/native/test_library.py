import logging
import subprocess
import sys

import numpy as np
import pytest

from penstock import native
from penstock.native import library
from penstock.resize import resize_images

needs_kernels = pytest.mark.skipif(not native.available(), reason=native.describe())


@pytest.fixture
def fresh():
    """Lets the next call look for the library again, and forgets that it did."""
    library._find.cache_clear()
    library.say_fallback.cache_clear()
    yield
    library._find.cache_clear()
    library.say_fallback.cache_clear()


def test_import_penstock_loads_no_library():
    code = (
        "import sys, penstock; found = 'penstock.native' in sys.modules; "
        "maps = open('/proc/self/maps').read(); raise SystemExit(found or 'kernels.so' in maps)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("PENSTOCK_NATIVE", "0")
    assert not native.available()
    assert native.describe() == "absent: switched off by PENSTOCK_NATIVE=0"


@needs_kernels
def test_it_can_be_held_below_what_the_cpu_has(fresh, monkeypatch):
    monkeypatch.setenv("PENSTOCK_NATIVE", "portable")
    assert native.describe() == "portable"


def test_an_unknown_wish_is_said(fresh, monkeypatch):
    monkeypatch.setenv("PENSTOCK_NATIVE", "sse9")
    assert "PENSTOCK_NATIVE=sse9 is not known" in native.describe()


def test_a_missing_or_foreign_library_is_absent_with_its_reason(fresh, monkeypatch, tmp_path):
    monkeypatch.delenv("PENSTOCK_NATIVE", raising=False)
    monkeypatch.setattr(library, "_FILE", tmp_path / "kernels.so")
    assert native.describe().startswith("absent: it was not built")
    library._find.cache_clear()
    (tmp_path / "kernels.so").write_bytes(b"no library")
    assert "kernels.so" in native.describe()
    assert not native.available()


@needs_kernels
def test_a_library_of_other_sources_is_not_used(fresh, monkeypatch):
    monkeypatch.delenv("PENSTOCK_NATIVE", raising=False)
    monkeypatch.setattr(library, "_ABI", library._ABI + 1)
    assert "was built from other sources: install penstock again" in native.describe()


def test_falling_back_is_said_once(fresh, monkeypatch, caplog):
    monkeypatch.setenv("PENSTOCK_NATIVE", "0")
    images = np.zeros((1, 4, 4, 3), np.uint8)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            resize_images(images, np.zeros((1, 2, 2, 3), np.uint8))
    (record,) = caplog.records
    assert record.getMessage() == (
        "The native kernels are absent: switched off by PENSTOCK_NATIVE=0. Frames are resized and "
        "decoded by NumPy instead: the same bytes, tens of times slower."
    )
