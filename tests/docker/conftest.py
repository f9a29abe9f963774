"""Fixtures of the container tests: images built by compose, and the stack that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from container_stack import CONTAINER_GID, CONTAINER_UID, ROOT, SERVICES, Stack

EPISODES = 60


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    client = docker.from_env(timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags of the two-arm robot, recorded on this machine."""
    folder = tmp_path_factory.mktemp("robot") / "recordings"
    subprocess.run(
        [
            *(sys.executable, "-m", "two_arm_reach.record", "--episodes", str(EPISODES)),
            *("--out", str(folder), "--seed", "7"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "examples")},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


@pytest.fixture(scope="session")
def images(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The image of each service, built as a user builds them."""
    builder = Stack(engine, tmp_path_factory.mktemp("build"))
    # From nothing this downloads torch and its CUDA libraries.
    for service in ("sampler", "checkpointer", "converter", "trainer"):
        builder.compose("build", service, timeout_s=1800)
    return {service: engine.images.get(f"penstock-{service}:latest") for service in SERVICES}


@pytest.fixture(scope="session")
def stack(
    engine: Any,
    images: dict[str, Any],
    recordings: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """Four services, two of the sampler, up on an empty data folder."""
    assert set(images) == set(SERVICES)
    stack = Stack(engine, recordings.parent)
    stack.data.mkdir()
    if os.getuid() == 0:
        os.chown(stack.data, CONTAINER_UID, CONTAINER_GID)
    try:
        stack.compose("up", "--detach", "--no-build", "--scale", "sampler=2")
        stack.wait_until_healthy(5)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")
