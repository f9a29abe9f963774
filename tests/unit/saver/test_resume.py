"""Killed and resumed, a training run ends where one that was left alone ends: bit for bit."""

import subprocess
import sys

import psutil
import pytest
import torch
from service_process import ServiceProcess

import penstock
from penstock import container

STEPS, SAVE_EVERY = 24, 3

PROGRAM = """
import random, sys
import numpy as np
import torch
import penstock

target, until, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
compress = sys.argv[4]
EVERY, STEPS = int(sys.argv[5]), int(sys.argv[6])
torch.set_num_threads(1)
with penstock.open_checkpoints(target) as client:
    saved = client.load("run") if client.latest("run") else None
# Only now: what is imported on the way may draw numbers.
torch.manual_seed(1)
np.random.seed(2)
random.seed(3)
model = torch.nn.Sequential(
    torch.nn.Linear(40, 300), torch.nn.BatchNorm1d(300), torch.nn.ReLU(), torch.nn.Dropout(0.3),
    torch.nn.Linear(300, 300), torch.nn.ReLU(), torch.nn.Linear(300, 4),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
ema = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
generator = np.random.default_rng(4)
order = torch.Generator().manual_seed(5)
step = 0


def state():
    return {
        "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(), "ema": ema,
        "rng": {
            "torch": torch.get_rng_state(), "numpy": np.random.get_state(),
            "python": random.getstate(), "generator": generator.bit_generator.state,
            "order": order.get_state(),
        },
    }


if saved is not None:
    step, ema, rng = saved["step"], saved["ema"], saved["rng"]
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    torch.set_rng_state(rng["torch"])
    np.random.set_state(rng["numpy"])
    random.setstate(rng["python"])
    generator.bit_generator.state = rng["generator"]
    order.set_state(rng["order"])
print("from", step, flush=True)

with penstock.AsyncCheckpointSaver(target, run="run", compress=compress) as saver:
    while step < STEPS:
        x = torch.from_numpy(np.random.normal(size=(16, 40)).astype(np.float32))
        x += float(generator.normal()) + random.random()
        x = x[torch.randperm(16, generator=order)]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                ema[name].lerp_(tensor, 0.1)
        step += 1
        if step % EVERY == 0 or step == STEPS:
            saver.save_async(state(), step, tags=("final",) if step == STEPS else ())
        if step == until:
            # What was saved so far is durable; something is under way when the process dies.
            saver.wait()
            saver.save_async(state(), step + 1000)
            print("kill me", flush=True)
            sys.stdin.read()
from penstock import container
container.write_file(state(), out)
print("done", flush=True)
"""


def start(target, until, out, compress):
    command = [sys.executable, "-c", PROGRAM, target, str(until), str(out), compress]
    return subprocess.Popen(
        [*command, str(SAVE_EVERY), str(STEPS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_to_the_end(target, out, compress):
    """The state at the end, and the step that it went on from."""
    with start(target, -1, out, compress) as process:
        lines, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    first, *_, last = lines.splitlines()
    assert last == "done"
    return container.read(out), int(first.split()[1])


def run_and_kill(target, until, compress):
    """As an operator, or a kernel out of memory, would."""
    with start(target, until, "", compress) as process:
        assert process.stdout.readline().startswith("from")
        assert process.stdout.readline().strip() == "kill me"
        others = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    # The process that uploads finishes what it was given, and ends then.
    assert psutil.wait_procs(others, timeout=60)[1] == []


def assert_same(found, wanted, path="state"):
    assert type(found) is type(wanted), path
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), path
        for key in wanted:
            assert_same(found[key], wanted[key], f"{path}[{key!r}]")
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), path
        for place, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same(*pair, f"{path}[{place}]")
    elif isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype, path
        assert found.numpy().tobytes() == wanted.numpy().tobytes(), path
    elif hasattr(wanted, "tobytes"):
        assert found.tobytes() == wanted.tobytes(), path
    else:
        assert repr(found) == repr(wanted), path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The end of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    state, begun = run_to_the_end(f"file://{folder}/store", folder / "end.pstk", "none")
    assert begun == 0
    assert state["step"] == STEPS
    return state


@pytest.fixture
def target(request, tmp_path):
    if request.param == "embedded":
        yield f"file://{tmp_path}/store"
        return
    arguments = ("--root", str(tmp_path / "store"))
    with ServiceProcess("checkpointer", *arguments, log=tmp_path / "log") as service:
        yield service.target


@pytest.mark.parametrize(
    ("target", "compress"),
    [("embedded", "small"), ("service", "delta")],
    indirect=["target"],
    ids=["embedded", "service"],
)
def test_run_that_is_killed_twice_ends_as_one_that_is_not(target, compress, undisturbed, tmp_path):
    resumed = []
    for until in (7, 17):
        run_and_kill(target, until, compress)
        with penstock.open_checkpoints(target) as client:
            steps = [info.step for info in client.list("run")]
            assert steps[: until // SAVE_EVERY] == list(range(SAVE_EVERY, until, SAVE_EVERY))
            # What was under way at the kill is whole, or not there; it is not for this run.
            for step in [step for step in steps if step > 1000]:
                assert client.load("run", step)["step"] == step - 1000
                client.delete("run", step)
            resumed.append(client.get("run").step)
    state, begun = run_to_the_end(target, tmp_path / "end.pstk", compress)
    assert resumed == [6, 15]
    assert begun == 15
    assert_same(state, undisturbed)
    with penstock.open_checkpoints(target) as client:
        assert_same(client.load("run", "final"), undisturbed)
