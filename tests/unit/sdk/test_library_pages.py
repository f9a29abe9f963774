"""Pages of libraries that were let go of do not count as memory, and come back when needed."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can let go of pages")

PROGRAM = """
import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet

from penstock.library_pages import let_go_of_libraries


def mapped_kb():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
data = cv2.imencode(".png", image)[1]
before = mapped_kb()
let_go_of_libraries()
after = mapped_kb()
same = bool((cv2.imdecode(data, cv2.IMREAD_COLOR) == image).all())
print(before, after, same)
"""


def test_libraries_that_were_let_go_of_take_less_memory_and_work_as_before():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    before, after, same = ran.stdout.split()
    assert int(after) < int(before) / 2
    assert same == "True"
