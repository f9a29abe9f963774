"""From bags to a policy with every step in a container, and clients inside and outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_to_policy.recipe import Recipe
from container_stack import ROOT, Stack, count_of

import penstock
from penstock.client.converter import Conversion, open_converter
from penstock.client.trainer import Training, open_trainer

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

REPLICAS = "grpc://sampler:50051?replicas=dns"
EXP_ID = "containers"
# The demo's own training, cut short: two evaluations, each with a checkpoint.
RECIPE = Recipe(lapo_steps=300, checkpoints=2)
STEPS = RECIPE.lapo_steps


def _fetches(stack: Stack) -> list[float]:
    """Answered fetches of each replica so far."""
    labels = {"method": "/penstock.v1.SamplerService/Fetch", "code": "OK"}
    return [
        count_of(replica, "penstock_calls_total", labels) for replica in stack.containers("sampler")
    ]


@pytest.fixture(scope="session")
def conversion(stack: Stack, recordings: Path) -> Conversion:
    """All bags converted by the converter's container into the folder that the sampler serves."""
    mapping = (ROOT / "examples" / "two_arm_reach" / "mapping.yaml").read_text("utf-8")
    with open_converter(stack.target("converter")) as converter:
        started = converter.start(["episode_*"], "two_arm_reach", mapping)
        *_, ended = converter.watch(started.conversion_id)
    assert ended.state == "succeeded", (ended, stack.logs())
    return ended


@pytest.fixture(scope="session")
def training(stack: Stack, conversion: Conversion) -> Iterator[list[Training]]:
    """Reports of a run during which one of the two sampler replicas is killed."""
    assert conversion.ended
    doomed = stack.containers("sampler")[1]
    reports: list[Training] = []
    with open_trainer(stack.target("trainer")) as trainer:
        trainer.start(EXP_ID, RECIPE.training_options("lapo") | {"log_freq": 20})
        for report in trainer.watch(EXP_ID):
            reports.append(report)
            if doomed and 0 < report.step < STEPS:
                doomed.kill()
                doomed = None
    yield reports
    stack.compose("up", "--detach", "--no-build", "--scale", "sampler=2")
    stack.wait_until_healthy(5)


def test_every_bag_becomes_an_episode(conversion: Conversion) -> None:
    assert {bag.state for bag in conversion.bags} == {"converted"}


def test_a_client_reaches_both_replicas_by_one_name(stack: Stack, conversion: Conversion) -> None:
    assert conversion.ended
    before = _fetches(stack)
    printed = stack.run("sampler", "sample", REPLICAS, "--batch-size", "16", "--batches", "20")
    assert f"{len(conversion.bags)} episodes" in printed
    served = np.subtract(_fetches(stack), before)
    assert served.shape == (2,)
    assert (served > 0).all(), served


def test_replicas_give_the_same_batches_to_the_byte(stack: Stack, conversion: Conversion) -> None:
    assert conversion.ended
    plan = penstock.Plan(seed=3, batch_size=16)
    batches = []
    for replica in stack.containers("sampler"):
        with penstock.open_sampler(f"grpc://{stack.address(replica)}") as sampler:
            batches.append((sampler.info.version, sampler.sample(plan, 5)))
    (first_version, first), (second_version, second) = batches
    assert first_version == second_version
    assert first.frames.tobytes() == second.frames.tobytes()
    assert first.action.tobytes() == second.action.tobytes()


def test_training_ends_although_a_replica_is_killed(stack: Stack, training: list[Training]) -> None:
    last = training[-1]
    assert (last.state, last.step) == ("succeeded", STEPS), (last, stack.logs())
    assert any(0 < report.step < STEPS for report in training)


def test_the_trainer_reads_cached_frames_of_its_own_machine(
    stack: Stack, training: list[Training]
) -> None:
    assert training
    handed = "penstock_sampler_local_descriptors_total"
    assert sum(count_of(replica, handed, {}) for replica in stack.containers("sampler")) > 0


def test_a_checkpoint_is_read_back_from_outside(stack: Stack, training: list[Training]) -> None:
    assert training
    target = stack.target("checkpointer")
    with penstock.open_checkpoints(target) as checkpoints:
        steps = sorted(checkpoint.step for checkpoint in checkpoints.list(EXP_ID))
        state: Any = checkpoints.load(EXP_ID, "latest")
    assert steps == [STEPS // 2, STEPS]
    assert state["step"] == STEPS


def test_checkpoints_outlive_their_container(stack: Stack, training: list[Training]) -> None:
    assert training
    (container,) = stack.containers("checkpointer")
    container.kill()
    stack.compose("up", "--detach", "--no-build", "--scale", "sampler=2")
    stack.wait_until_healthy(5)
    assert penstock.load_checkpoint(stack.target("checkpointer"), run=EXP_ID)["step"] == STEPS
