"""The navigation example learns, also on two machines whose parts and whose link break down.

``PENSTOCK_CHAOS_SEEDS`` is how many seeds are trained to the example's own bar under faults;
without it one is trained for a short time, to an easy bar.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import network_namespaces
import pytest
from navigation_ppo.settings import BAR_SUCCESS, Settings
from two_machines import TwoMachines, lines_of

import penstock
from penstock.rollouts import open_rollouts

ROOT = Path(__file__).resolve().parents[2]

SEEDS = int(os.environ.get("PENSTOCK_CHAOS_SEEDS", "0"))
# Nobody reaches the goal by chance, and untrained networks do not.
SHORT_ROLLOUTS, SHORT_BAR = 24, 0.3
MAX_STALENESS = 6
ROUNDS = 3
LINK_BITS_PER_S = 1e9

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_one_command_learns(tmp_path):
    command = [sys.executable, "-m", "navigation_ppo", "run", "--out", str(tmp_path / "out")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")))
    }
    result = subprocess.run(
        [*command, "--rollouts", str(SHORT_ROLLOUTS)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    trained = lines_of(tmp_path / "out" / "trainer.jsonl")
    assert [line["rollout"] for line in trained] == list(range(1, SHORT_ROLLOUTS + 1)), (
        result.stdout + result.stderr
    )
    assert trained[-1]["success"] > SHORT_BAR
    assert trained[-1]["mean_return"] > trained[0]["mean_return"] + 5
    passed = trained[-1]["success"] >= BAR_SUCCESS
    assert result.returncode == (0 if passed else 1)
    assert ("passed" if passed else "missed") in result.stdout.splitlines()[-1]
    assert len(result.stdout.splitlines()) >= SHORT_ROLLOUTS + 2


@pytest.mark.parametrize("seed", range(max(1, SEEDS)))
def test_two_machines_learn_from_each_rollout_once_whatever_breaks_down(tmp_path, seed):
    reason = network_namespaces.why_not()
    if reason:
        pytest.skip(f"two machines cannot be made here: {reason}")
    rollouts, bar = (Settings.rollouts, BAR_SUCCESS) if SEEDS else (SHORT_ROLLOUTS, SHORT_BAR)
    dice = random.Random(seed)  # noqa: S311 - no secret
    options = ("--seed", str(seed), "--rollouts", str(rollouts))
    with TwoMachines(tmp_path, *options, "--max-staleness", str(MAX_STALENESS)) as machines:
        machines.cable.shape(LINK_BITS_PER_S)
        machines.wait_for_rollouts(2)
        faults = [cut_the_cable, kill_collector, kill_trainer, kill_checkpointer]
        for _ in range(ROUNDS if SEEDS else 1):
            dice.shuffle(faults)
            for fault in faults:
                assert not machines.is_over(), "the run ended before all that was to go wrong did"
                sys.stdout.write(f"{len(lines_of(machines.trained))} trained: {fault.__name__}\n")
                # In the midst of one transfer or another.
                machines.wait_for_a_push()
                fault(machines)
                machines.wait_for_rollouts(2)
        trainer_code, collector_code = machines.wait_for_the_end()
    trained, collected = lines_of(machines.trained), lines_of(machines.collected)

    # No rollout twice, none left out, all in order.
    assert [line["rollout"] for line in trained] == list(range(1, rollouts + 1))
    sequences = [line["sequence"] for line in trained]
    assert sequences == sorted(set(sequences))
    store = f"file://{tmp_path}/store"
    with open_rollouts(store) as streams:
        stream = streams.stream("navigation")
    (consumer,) = stream.consumers
    (producer,) = stream.producers
    skipped = set(range(1, sequences[-1] + 1)) - set(sequences)
    assert len(skipped) == consumer.skipped_stale
    assert consumer.settled + consumer.waiting == stream.last_sequence
    assert (consumer.dropped, stream.dropped) == (0, 0)
    assert [line["damaged"] for line in trained] == [0] * rollouts
    # As many as sequences: no iteration is missing and none is stored twice.
    assert producer.pushed == producer.last_iteration + 1 == stream.last_sequence
    assert all(line["iteration"] == line["sequence"] - 1 for line in trained)

    # No batch is torn: what was trained on is, bit for bit, what was collected.
    sent = {(line["iteration"], line["policy_version"], line["checksum"]) for line in collected}
    assert sent >= {
        (line["iteration"], line["policy_version"], line["checksum"]) for line in trained
    }

    # Each rollout left a checkpoint, and says how old the weights were that acted.
    with penstock.open_checkpoints(store) as checkpoints:
        steps = [info.step for info in checkpoints.list("navigation")]
    assert steps == list(range(rollouts + 1))
    for line in trained:
        assert line["staleness"] == line["rollout"] - 1 - line["policy_version"]
        assert 0 <= line["staleness"] <= MAX_STALENESS

    assert trained[-1]["success"] > bar
    assert collector_code == 0
    assert trainer_code == (0 if trained[-1]["success"] >= BAR_SUCCESS else 1)


def cut_the_cable(machines):
    machines.cable.cut()
    machines.wait_until_trainer_waits()
    machines.cable.restore()


def kill_collector(machines):
    machines.collector.kill_and_start()


def kill_trainer(machines):
    machines.trainer.kill_and_start()


def kill_checkpointer(machines):
    machines.checkpointer.kill_and_start()
