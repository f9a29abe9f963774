"""Recordings and mappings of a made-up robot."""

from pathlib import Path

import pytest
from bag_recording import robot_messages, write_bag
from penstock_converter.mapping.parsing import parse_mapping

MAPPING = """
robot_type: made_up
task: count
fps: 10
rosbag: {main: observation.images.global}
features:
  observation.images.left: {topic: /cam_left/compressed, tolerance_s: 0.03}
  observation.images.global: {topic: /cam_global/compressed}
  observation.state: {topic: /joint_states}
  action: {topic: /joint_cmd}
  next.reward: {topic: /reward, offset_s: 0.1}
  next.done: {topic: /terminal, offset_s: 0.1}
outputs:
  lerobot: {}
  hdf5:
    joint: observation.state
    actions: action
    rewards: next.reward
    terminals: next.done
    images:
      left_image: observation.images.left
      right_image: observation.images.left
      global_image: observation.images.global
"""


@pytest.fixture(scope="session")
def mapping_text():
    return MAPPING


@pytest.fixture(scope="session")
def make_mapping():
    """The mapping with dotted overrides."""
    return lambda *overrides: parse_mapping(MAPPING, overrides)


@pytest.fixture(scope="session")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 12 rows and one observation more; see ``robot_messages``."""
    return write_bag(tmp_path_factory.mktemp("bag") / "robot", robot_messages(12))
