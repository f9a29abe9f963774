"""A compose project of its own for tests: up, looked at, down, without disturbing another."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import docker
import pytest
import tenacity
from docker.models.containers import Container

__all__ = [
    "CONTAINER_GID",
    "CONTAINER_UID",
    "PORTS",
    "ROOT",
    "SERVICES",
    "Stack",
    "count_of",
    "wait_for",
]

ROOT = Path(__file__).parents[1]
SERVICES = ("sampler", "trainer", "checkpointer", "converter")
PORTS = {"sampler": 50051, "trainer": 50052, "checkpointer": 50053, "converter": 50054}
# The owner of the data folder; containers never run as root, so root hands the folder over.
CONTAINER_UID = os.getuid() or 1000
CONTAINER_GID = os.getgid() or 1000

T = TypeVar("T")


class Stack:
    """One compose project with folders and ports of its own, so that it disturbs no other."""

    def __init__(self, engine: docker.DockerClient, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.project = f"penstock-test-{os.getpid()}"
        self.recordings, self.data = folder / "recordings", folder / "data"
        self._environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK")
            },
            "PENSTOCK_DATA": str(self.data),
            "PENSTOCK_RECORDINGS": str(self.recordings),
            "PENSTOCK_UID": str(CONTAINER_UID),
            "PENSTOCK_GID": str(CONTAINER_GID),
            # The engine picks free ports.
            **{f"PENSTOCK_{name.upper()}_PORT": "0" for name in SERVICES},
            "PENSTOCK_SAMPLER_PORTS": "0",
            # Builds use the network as this machine does, name servers and gateways included.
            "PENSTOCK_BUILD_NETWORK": "host",
        }

    def compose(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a compose command on the project and return what it prints."""
        done = subprocess.run(
            [
                str(ROOT / "deploy" / "engine.sh"),
                "compose",
                *("--project-name", self.project),
                *("--file", str(ROOT / "deploy" / "docker-compose.yml")),
                *arguments,
            ],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"compose {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def containers(self, service: str = "") -> list[Container]:
        """Running containers of the project, or of one of its services, by number of replica."""
        labels = [f"com.docker.compose.project={self.project}"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        found = self.engine.containers.list(filters={"label": labels})
        kept = [one for one in found if one.labels["com.docker.compose.oneoff"] == "False"]
        return sorted(kept, key=lambda one: int(one.labels["com.docker.compose.container-number"]))

    def address(self, container: Container) -> str:
        """``host:port`` at which this machine reaches a container's service."""
        port = PORTS[container.labels["com.docker.compose.service"]]
        container.reload()
        (binding, *_) = container.ports[f"{port}/tcp"]
        return f"127.0.0.1:{binding['HostPort']}"

    def target(self, service: str) -> str:
        """Target at which this machine reaches a service (its first replica)."""
        return f"grpc://{self.address(self.containers(service)[0])}"

    def run(self, service: str, *command: str) -> str:
        """Run a ``penstock`` command in a container of its own, inside the project's network."""
        return self.compose("run", "--rm", "-T", "--no-deps", service, *command)

    def logs(self) -> str:
        """The last lines of every service, for the report of a failure."""
        return self.compose("logs", "--no-color", "--tail", "40")

    def wait_until_healthy(self, count: int, timeout_s: float = 180) -> list[Container]:
        """Wait for ``count`` running containers that all report themselves healthy."""

        def ready() -> list[Container]:
            return self.containers()

        return wait_for(
            ready,
            lambda found: len(found) == count and {health(one) for one in found} == {"healthy"},
            timeout_s,
            explain=lambda: f"{[(one.name, health(one)) for one in ready()]}\n{self.logs()}",
        )


def health(container: Container) -> str:
    """What the engine's health check found: starting, healthy or unhealthy."""
    return container.attrs["State"].get("Health", {}).get("Status", "none")


def wait_for(
    look: Callable[[], T],
    good: Callable[[T], bool],
    timeout_s: float,
    explain: Callable[[], str],
) -> T:
    """Look again and again until what is seen is good."""
    try:
        return tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda seen: not good(seen)),
            wait=tenacity.wait_fixed(0.5),
            stop=tenacity.stop_after_delay(timeout_s),
        )(look)
    except tenacity.RetryError:
        pytest.fail(f"not reached in {timeout_s:.0f} s: {explain()}")


def count_of(container: Container, metric: str, labels: Mapping[str, str]) -> float:
    """Sum of a counter over all series that carry ``labels``, read inside the container."""
    code = "import urllib.request as u; print(u.urlopen('http://localhost:9090').read().decode())"
    result = container.exec_run(["python", "-c", code])
    assert result.exit_code == 0, result.output.decode()
    total = 0.0
    for line in result.output.decode().splitlines():
        match = re.fullmatch(rf"{metric}(?:\{{(.*)\}})? (\S+)", line)
        if match and set(re.findall(r'(\w+)="([^"]*)"', match[1] or "")) >= set(labels.items()):
            total += float(match[2])
    return total
