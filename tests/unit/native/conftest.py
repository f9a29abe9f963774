import pytest

from penstock import native
from penstock.native import library


@pytest.fixture(scope="session", params=native.LEVELS)
def kernels(request):
    """The native library, at each level of instructions that this CPU has."""
    return kernels_at(request.param)


@pytest.fixture(params=["numpy", *native.LEVELS])
def implementation(request, monkeypatch):
    """The public functions with NumPy alone, and with each level of the native library."""
    found = "absent for this test"
    if request.param != "numpy":
        found = kernels_at(request.param)
    monkeypatch.setattr(library, "_find", lambda: found)
    return request.param


def kernels_at(level):
    try:
        return native.Kernels(level=level)
    except (OSError, ValueError) as error:
        pytest.skip(str(error))
