"""Fixtures that several test folders use."""

import os
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def unused_port():
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def real_data():
    """Folder of recordings made by others; missing is a failure, never a skip."""
    folder = Path(os.environ.get("PENSTOCK_REAL_DATA", ROOT.parent / "shared" / "data"))
    assert folder.is_dir(), f"{folder} is missing: set PENSTOCK_REAL_DATA to the recordings"
    return folder
