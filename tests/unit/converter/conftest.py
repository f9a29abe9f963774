"""Recordings and mappings of a made-up robot."""

from pathlib import Path

import pytest
from bag_recording import ROBOT_MAPPING, robot_messages, write_bag
from penstock_converter.mapping.parsing import parse_mapping


@pytest.fixture(scope="session")
def mapping_text():
    return ROBOT_MAPPING


@pytest.fixture(scope="session")
def make_mapping():
    """The mapping with dotted overrides."""
    return lambda *overrides: parse_mapping(ROBOT_MAPPING, overrides)


@pytest.fixture(scope="session")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 12 rows and one observation more; see ``robot_messages``."""
    return write_bag(tmp_path_factory.mktemp("bag") / "robot", robot_messages(12))
