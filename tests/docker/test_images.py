"""What each image holds, and what it may do."""

from __future__ import annotations

from typing import Any

import pytest
from container_stack import PORTS, SERVICES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]


def _python(engine: Any, image: Any, code: str) -> str:
    output: bytes = engine.containers.run(
        image.id, ["-c", code], entrypoint="python", remove=True, network_mode="none"
    )
    return output.decode().strip()


def test_only_the_trainer_image_has_torch(engine: Any, images: dict[str, Any]) -> None:
    code = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    found = {service: _python(engine, image, code) for service, image in images.items()}
    assert found == {
        "sampler": "False",
        "trainer": "True",
        "checkpointer": "False",
        "converter": "False",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_without_root_even_outside_compose(
    service: str, engine: Any, images: dict[str, Any]
) -> None:
    assert _python(engine, images[service], "import os; print(os.getuid())") == "1000"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_carries_its_own_health_check(service: str, images: dict[str, Any]) -> None:
    check = images[service].attrs["Config"]["Healthcheck"]["Test"]
    assert check == ["CMD", "penstock", "health", f"grpc://localhost:{PORTS[service]}"]


@pytest.mark.parametrize("service", SERVICES)
def test_installed_packages_fit_together(service: str, engine: Any, images: dict[str, Any]) -> None:
    output = engine.containers.run(
        images[service].id, ["check"], entrypoint="pip", remove=True, network_mode="none"
    )
    assert output.decode().strip() == "No broken requirements found."


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["train", "--hdf5-path", "file:///data"], "trainer"),
        (["serve", "trainer"], "trainer"),
        (["serve", "converter"], "converter"),
    ],
)
def test_a_command_of_another_service_says_what_is_missing(
    command: list[str], extra: str, engine: Any, images: dict[str, Any]
) -> None:
    container = engine.containers.create(images["sampler"].id, command, network_mode="none")
    try:
        container.start()
        assert container.wait(timeout=60)["StatusCode"] == 1
        said = container.logs().decode()
    finally:
        container.remove(force=True)
    assert f"pip install 'penstock[{extra}]'" in said
    assert "Traceback" not in said


def test_dependencies_come_before_code_so_that_a_change_of_code_reinstalls_none(
    images: dict[str, Any],
) -> None:
    steps = [layer["CreatedBy"] for layer in reversed(images["trainer"].history())]
    (dependencies,) = [i for i, step in enumerate(steps) if "-r /requirements.txt" in step]
    (code,) = [i for i, step in enumerate(steps) if "/wheels/*.whl" in step]
    assert dependencies < code
    assert not any("src" in step for step in steps[: dependencies + 1])
