import pytest

from penstock import native
from penstock.native import library
from penstock.rollout_file import tables


@pytest.fixture(params=["numpy", *native.LEVELS])
def implementation(request, monkeypatch):
    """The codec with NumPy alone, and with each level of the native library."""
    found = "absent for this test"
    if request.param != "numpy":
        try:
            found = native.Kernels(level=request.param)
        except (OSError, ValueError) as error:
            pytest.skip(str(error))
    monkeypatch.setattr(library, "_find", lambda: found)
    monkeypatch.setattr(tables, "_free", [])
    return request.param
