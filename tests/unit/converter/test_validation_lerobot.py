"""Datasets that lerobot 0.4.4 wrote itself pass; what it is known to get wrong is told."""

import os
import subprocess
from pathlib import Path

import pytest
from penstock_converter.checks.validation import validate_dataset

ROOT = Path(__file__).resolve().parents[3]
PYTHON = os.environ.get("PENSTOCK_LEROBOT_PYTHON", str(ROOT / ".venv-lerobot/bin/python"))

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.skipif(PYTHON == "none", reason="PENSTOCK_LEROBOT_PYTHON is none"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Datasets of three episodes and two tasks, with a video and with images in tables."""
    assert Path(PYTHON).exists(), f"{PYTHON} is missing: make test makes it"
    folder = tmp_path_factory.mktemp("lerobot")
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests/lerobot_make.py"), str(folder)],
        env={**os.environ, "HF_HOME": str(folder / "hf"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_dataset_of_lerobot_fails_no_check(made, kind):
    found = validate_dataset(made / kind, full=True)
    checks = {check.name: check for check in found.checks}
    assert found.passed, found.to_json()
    assert (found.episodes, found.frames) == (3, 157)
    assert checks["tasks"].compared == {"tasks": 2}
    assert checks["images"].compared == {"images": 157}
    assert checks["statistics of numbers"].compared == {"episodes": 27, "features": 9}
    # Its standard deviations of images are 0.
    assert [name for name, check in checks.items() if check.state == "warning"] == [
        "statistics of images"
    ]
    assert "std of channel 0 is 0.0000" in checks["statistics of images"].first_warnings[0].message
    assert checks["recording: frames"].state == "skipped"
