"""Killed or told to end at any moment: what was acknowledged stays, and clients go on."""

import contextlib
import threading
import time

import numpy as np
import pytest
import torch
from penstock_checkpointer.service import CheckpointService
from penstock_checkpointer.store import Store
from service_process import ServiceProcess

import penstock
from penstock.client.checkpoint import WriterTokens
from penstock.errors import Internal
from penstock.server import ServerSettings, start

SIZE = 1_500_000
KILLS = 4


def state_of(step):
    return {"step": step, "w": torch.full((SIZE,), float(step)) + torch.arange(SIZE)}


@pytest.fixture
def server(tmp_path):
    root = tmp_path / "checkpoints"
    with ServiceProcess(
        "checkpointer", "--root", str(root), "--drain-s", "0", log=tmp_path / "log"
    ) as process:
        yield process


@pytest.mark.e2e
def test_killed_server_loses_no_acknowledged_checkpoint(server):
    """A writer saves without a pause while the server is ended at random moments.

    Mostly by kill -9, once by SIGTERM without time to drain.
    """
    acknowledged, failures, done = [], [], threading.Event()

    def write():
        try:
            with penstock.open_checkpoints(
                server.target, retry_s=60, tokens=WriterTokens()
            ) as client:
                step = 0
                while not done.is_set():
                    acknowledged.append(client.save(state_of(step), "run", step, compress="none"))
                    step += 1
        except penstock.PenstockError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    dice = np.random.default_rng(0)
    for ending in range(KILLS):
        seen = len(acknowledged)
        wait_until(lambda seen=seen: len(acknowledged) > seen or failures)
        # Not a wait for something: the moment of the kill is what is varied.
        done.wait(dice.uniform(0, 0.15))
        if ending == 1:
            assert server.stop() == 0
        else:
            server.kill()
        server.start()
    done.set()
    writer.join()
    assert failures == []
    assert len(acknowledged) >= KILLS
    with penstock.open_checkpoints(server.target) as client:
        assert client.list("run") == acknowledged
        for info in acknowledged:
            loaded = client.load("run", info.step)
            assert loaded["step"] == info.step
            assert torch.equal(loaded["w"], state_of(info.step)["w"])


@pytest.mark.e2e
def test_download_goes_on_after_the_server_was_killed(server):
    state = {"w": torch.arange(24_000_000, dtype=torch.int32)}
    with penstock.open_checkpoints(server.target, retry_s=60) as client:
        info = client.save(state, "run", 1, compress="none")
        pieces = client._store._pieces
        killed = []

        def pieces_until_killed(*arguments):
            for piece in pieces(*arguments):
                yield piece
                if not killed:
                    server.kill()
                    killed.append(True)
                    server.start()

        client._store._pieces = pieces_until_killed
        loaded = client.load("run", 1)
        assert client.counts["downloads_resumed"] == 1
    assert torch.equal(loaded["w"], state["w"])
    assert info.step == 1


@pytest.mark.e2e
def test_server_away_is_told_after_the_time_given(server):
    with penstock.open_checkpoints(server.target, retry_s=0.5) as client:
        client.save({"x": 1}, "run", 1)
        server.kill()
        with pytest.raises(penstock.PenstockError, match="is the service running there"):
            client.save({"x": 2}, "run", 2)
        assert client.counts["retries"] >= 1
        server.start()
    with penstock.open_checkpoints(server.target, retry_s=30) as client:
        assert client.load("run") == {"x": 1}


@pytest.mark.e2e
def test_save_waits_for_a_server_that_is_away_and_completes_when_it_is_back(server):
    with penstock.open_checkpoints(server.target, retry_s=60) as client:
        first = client.save({"x": 1}, "run", 1)
        server.kill()
        saved = []
        writer = threading.Thread(target=lambda: saved.append(client.save({"x": 2}, "run", 2)))
        writer.start()
        wait_until(lambda: client.counts["retries"] > 0)
        assert saved == []
        server.start()
        writer.join(60)
        assert client.list("run") == [first, *saved]
        assert (client.load("run", 1), client.load("run", 2)) == ({"x": 1}, {"x": 2})


@pytest.mark.parametrize("served", [False, True], ids=["embedded", "served"])
def test_part_that_a_power_loss_tore_is_found_and_sent_anew(tmp_path, served, monkeypatch):
    """Zeros where the last bytes were written: what a disk may show after its power went."""

    def die(*_):
        raise RuntimeError("the machine lost its power")

    root = tmp_path / "store"
    state = {"w": np.random.default_rng(0).integers(0, 256, 300_000, np.uint8)}
    store = Store(root)
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        target = f"file://{root}"
        if served:
            service = CheckpointService(store)
            server = stack.enter_context(start("checkpointer", ServerSettings(), service.register))
            target = server.target
        client = stack.enter_context(penstock.open_checkpoints(target, tokens=WriterTokens()))
        monkeypatch.setattr(Store, "commit", die)
        with pytest.raises((RuntimeError, Internal)):
            client.save(state, "run", 1, compress="none")
        monkeypatch.undo()
        (part,) = (root / "staging").iterdir()
        size = part.stat().st_size
        with part.open("r+b") as file:
            file.seek(size - 4096)
            file.write(bytes(4096))
        client.save(state, "run", 1, compress="none")
        np.testing.assert_array_equal(client.load("run", 1)["w"], state["w"])
        assert list((root / "staging").iterdir()) == []


def wait_until(condition, timeout_s=60):
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s
        pause.wait(0.01)
