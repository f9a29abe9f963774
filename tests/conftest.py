"""Fixtures that several test folders use."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest
import structlog

from penstock.server.port import free_port

ROOT = Path(__file__).resolve().parent.parent

# Machines are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A command that ran in this process set up logging to a stream that ends with its test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def unused_port():
    """A TCP port of the loopback interface that was free a moment ago."""
    return free_port()


@pytest.fixture(scope="session")
def real_data():
    """Folder of recordings made by others; missing is a failure, never a skip."""
    folder = Path(os.environ.get("PENSTOCK_REAL_DATA", ROOT.parent / "shared" / "data"))
    assert folder.is_dir(), f"{folder} is missing: set PENSTOCK_REAL_DATA to the recordings"
    return folder


@pytest.fixture(autouse=True, scope="session")
def frame_cache_folder(tmp_path_factory):
    """Tests, and processes that they start, cache frames in a folder of this run."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("frames")
        environment.setenv("PENSTOCK_CACHE_DIR", str(folder))
        yield folder
