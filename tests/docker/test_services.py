"""Four services in containers: up, healthy, reachable, and kept on a short lead."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from container_stack import SERVICES, Stack

from penstock.client.health import check_health
from penstock.targets import Target

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

OWN_SERVICE = {
    "sampler": "penstock.v1.SamplerService",
    "trainer": "penstock.v1.TrainerService",
    "checkpointer": "penstock.v1.CheckpointService",
    "converter": "penstock.v1.ConverterService",
}


def test_four_services_come_up_healthy_on_an_empty_folder(stack: Stack) -> None:
    running = Counter(one.labels["com.docker.compose.service"] for one in stack.containers())
    assert running == {"sampler": 2, "trainer": 1, "checkpointer": 1, "converter": 1}


@pytest.mark.parametrize("service", SERVICES)
def test_health_and_reflection_answer_from_outside(service: str, stack: Stack) -> None:
    for container in stack.containers(service):
        found = check_health(Target.parse(f"grpc://{stack.address(container)}"), timeout_s=30)
        assert found.status == "SERVING"
        assert {
            OWN_SERVICE[service],
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        } <= set(found.services)


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_of_a_container_runs_as_root(service: str, stack: Stack) -> None:
    for container in stack.containers(service):
        listed: Any = container.top(ps_args="-eo uid,pid,args")
        assert listed["Processes"], listed
        assert "0" not in {process[0].strip() for process in listed["Processes"]}, listed


@pytest.mark.parametrize("service", SERVICES)
def test_the_root_file_system_cannot_be_written_to(service: str, stack: Stack) -> None:
    (container, *_) = stack.containers(service)
    tried = container.exec_run(["touch", "/opt/penstock/implant"])
    assert tried.exit_code != 0
    assert b"Read-only file system" in tried.output


def test_ports_are_published_on_loopback_only(stack: Stack) -> None:
    bound = [
        binding["HostIp"]
        for container in stack.containers()
        for bindings in container.ports.values()
        for binding in bindings or []
    ]
    assert len(bound) == 5
    assert set(bound) == {"127.0.0.1"}


def test_a_stopped_service_drains_and_ends_with_exit_code_0(stack: Stack) -> None:
    (container,) = stack.containers("converter")
    container.stop(timeout=30)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    assert '"event": "stopped"' in container.logs(tail=5).decode()
    container.start()
    stack.wait_until_healthy(5)
