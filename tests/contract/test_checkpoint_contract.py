"""One suite for every way to reach a store: embedded, server in this process, server process."""

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
from penstock.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    DataFault,
    InvalidInput,
    LimitExceeded,
    NotFound,
)
from penstock.server import ServerSettings, start


@pytest.fixture(scope="module", params=["embedded", "server in process", "server process"])
def place(request, tmp_path_factory):
    """Target of a store, and its directory."""
    root = tmp_path_factory.mktemp("checkpoints")
    if request.param == "embedded":
        yield f"file://{root}", root
    elif request.param == "server in process":
        store = Store(root)
        with start("checkpointer", ServerSettings(), CheckpointService(store).register) as server:
            yield server.target, root
        store.close()
    else:
        log = tmp_path_factory.mktemp("log") / "checkpointer.log"
        with ServiceProcess("checkpointer", "--root", str(root), log=log) as process:
            yield process.target, root


@pytest.fixture
def client(place):
    with penstock.open_checkpoints(place[0], retry_s=10) as opened:
        yield opened


@pytest.fixture
def run(request):
    """A run of the test's own."""
    return request.node.originalname


def state_of(seed, size=800_000):
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(size, generator=generator), "step": seed, "rng": np.arange(3)}


def assert_same(state, expected):
    assert list(state) == list(expected)
    assert torch.equal(state["w"], expected["w"])
    assert state["step"] == expected["step"]
    np.testing.assert_array_equal(state["rng"], expected["rng"])


@pytest.mark.parametrize("compress", ["small", "fast", "delta", "none"])
def test_saved_state_is_loaded_bit_for_bit(client, run, compress):
    state = state_of(1)
    info = client.save(
        state, f"{run}-{compress}", 1, tags=("best",), metrics={"loss": 0.1}, compress=compress
    )
    assert_same(client.load(f"{run}-{compress}"), state)
    assert client.get(f"{run}-{compress}", "best") == info
    assert info.metrics == {"loss": 0.1}
    assert info.raw_size_bytes == 800_000 * 4 + 24


def test_acknowledgement_is_the_same_for_the_same_content(client, run):
    first = client.save(state_of(1), run, 1, tags=("best",))
    assert client.save(state_of(1), run, 1, tags=("best",)) == first
    with pytest.raises(AlreadyExists, match="other content") as refused:
        client.save(state_of(2), run, 1)
    assert refused.value.reason == "CHECKPOINT_EXISTS"
    assert_same(client.load(run, 1), state_of(1))


def test_list_runs_latest_and_delete(client, run):
    assert client.latest(run) is None
    for step in (20, 10):
        client.save({"step": step}, run, step)
    assert [info.step for info in client.list(run)] == [10, 20]
    assert client.latest(run).step == 20
    assert run in [found.name for found in client.runs()]
    client.delete(run, 20)
    assert client.latest(run).step == 10
    with pytest.raises(NotFound, match="no step 20"):
        client.delete(run, 20)
    with pytest.raises(NotFound, match="no tag 'best'"):
        client.load(run, "best")


def test_part_of_a_state_is_loaded_alone(client, run):
    client.save({"policy": {"w": torch.ones(3)}, "rest": 1}, run, 1)
    assert client.load(run, only=("policy", "w")).tolist() == [1, 1, 1]
    with pytest.raises(InvalidInput, match="has no 'critic'"):
        client.load(run, only=("critic",))


def test_state_that_cannot_be_kept_is_refused_with_its_path(client, run):
    with pytest.raises(InvalidInput, match=r"state\['a'\]\[1\]"):
        client.save({"a": [1, object()]}, run, 1)
    assert client.latest(run) is None


def test_new_writer_fences_the_old_one_until_it_takes_over(place, run):
    with (
        penstock.open_checkpoints(place[0], tokens=WriterTokens()) as old,
        penstock.open_checkpoints(place[0], tokens=WriterTokens()) as new,
    ):
        old.save({"x": 1}, run, 1)
        new.save({"x": 2}, run, 2)
        with pytest.raises(Conflict, match="taken over by a newer writer") as refused:
            old.save({"x": 3}, run, 3)
        assert refused.value.reason == "WRITER_FENCED"
        old.take_over(run)
        old.save({"x": 3}, run, 3)
        with pytest.raises(Conflict):
            new.save({"x": 4}, run, 4)
    with penstock.open_checkpoints(place[0]) as reader:
        assert [info.step for info in reader.list(run)] == [1, 2, 3]


def test_clients_of_one_process_do_not_fence_each_other(place, run):
    def save(step):
        with penstock.open_checkpoints(place[0]) as one:
            one.save(state_of(step, 300_000), run, step)

    threads = [threading.Thread(target=save, args=(step,)) for step in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with penstock.open_checkpoints(place[0]) as client:
        assert [info.step for info in client.list(run)] == [0, 1, 2, 3]
        for step in range(4):
            assert_same(client.load(run, step), state_of(step, 300_000))


def test_damage_on_the_disk_is_never_given_out(client, place, run):
    state = {"w": torch.arange(400_000.0)}
    client.save({"x": 1}, run, 1)
    client.save(state, run, 2, compress="none")
    path = place[1] / "runs" / run / f"{2:019d}.pstk"
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)
    for call in (lambda: client.load(run, 2), lambda: client.verify(run, 2)):
        with pytest.raises(Corrupt):
            call()
    data[-1] ^= 1
    path.write_bytes(data)
    assert client.latest(run).step == 1
    assert client.load(run) == {"x": 1}


def test_verification_counts_chunks(client, run):
    client.save(state_of(3), run, 1)
    info, chunks = client.verify(run)
    # 3.2 MB of weights in pieces of 1 MiB, and one small array.
    assert (info.step, chunks) == (1, 5)


def test_pinned_checkpoint_stays_until_it_is_let_go(client, run):
    for step in (1, 2):
        client.save({"x": step}, run, step, tags=("first",) if step == 1 else ())
    assert client.pin(run, "first").pinned
    assert [info.pinned for info in client.list(run)] == [True, False]
    with pytest.raises(DataFault, match=f"{run}/1 is pinned: unpin it first") as refused:
        client.delete(run, 1)
    assert refused.value.reason == "PINNED"
    assert client.pin(run).step == 2
    assert not client.unpin(run, 1).pinned
    client.delete(run, 1)
    assert [info.step for info in client.list(run)] == [2]
    with pytest.raises(NotFound, match="no step 1"):
        client.pin(run, 1)


def test_collecting_removes_what_no_rule_keeps_and_says_why_the_rest_stays(client, run):
    for step, loss in enumerate((3.0, 1.0, 2.0, 4.0, 5.0)):
        client.save({"x": step}, run, step, metrics={"loss": loss})
    client.pin(run, 2)
    policy = penstock.RetentionPolicy(keep_last=1, keep_best=(penstock.KeepBest("loss"),))
    foretold = client.collect(run, policy, dry_run=True)
    assert [info.step for info in client.list(run)] == [0, 1, 2, 3, 4]
    done = client.collect(run, policy)
    assert done == foretold
    assert [info.step for info in done.removed] == [0, 3]
    assert done.kept == (
        (run, 1, ("best loss",)),
        (run, 2, ("pinned",)),
        (run, 4, ("last 1",)),
    )
    assert done.freed_bytes == sum(info.size_bytes for info in done.removed) > 0
    assert [info.step for info in client.list(run)] == [1, 2, 4]


def test_collecting_by_no_rule_is_refused(client, run):
    client.save({"x": 1}, run, 1)
    with pytest.raises(InvalidInput, match="keeps nothing") as refused:
        client.collect(run, penstock.RetentionPolicy())
    assert refused.value.field == "policy"
    with pytest.raises(InvalidInput, match="no retention policy of its own"):
        client.collect(run)
    with pytest.raises(NotFound, match="no run 'nowhere'"):
        client.collect("nowhere", penstock.RetentionPolicy(keep_last=1))
    assert client.latest(run).step == 1


def test_damage_that_was_found_is_told_and_mended_by_saving_again(client, place, run):
    client.save({"x": 1}, run, 1)
    saved = client.save(state_of(1), run, 2)
    assert saved.verified_unix_ms >= saved.created_unix_ms > 0
    path = place[1] / "runs" / run / f"{2:019d}.pstk"
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        client.verify(run, 2)
    assert [info.damaged for info in client.list(run)] == [False, True]
    assert client.latest(run).step == 1
    assert not client.save(state_of(1), run, 2).damaged
    assert_same(client.load(run), state_of(1))


def test_service_keeps_what_its_settings_say_and_scrubs(tmp_path):
    rules = ("--keep-last", "2", "--keep-best", "loss:1", "--max-run-bytes", "100000")
    scrub = ("--scrub-interval-s", "0.05")
    root, log = tmp_path / "store", tmp_path / "checkpointer.log"
    with (
        ServiceProcess("checkpointer", "--root", str(root), *rules, *scrub, log=log) as process,
        penstock.open_checkpoints(process.target) as client,
    ):
        for step, loss in enumerate((2.0, 1.0, 3.0, 4.0, 5.0)):
            client.save({"x": step}, "run", step, metrics={"loss": loss})
        assert [info.step for info in client.list("run")] == [1, 3, 4]
        assert client.collect(dry_run=True).kept == (
            ("run", 1, ("best loss",)),
            ("run", 3, ("last 2",)),
            ("run", 4, ("last 2",)),
        )
        with pytest.raises(LimitExceeded, match="run 'run' holds") as refused:
            client.save({"x": np.random.default_rng(0).random(20_000)}, "run", 9)
        assert refused.value.reason == "QUOTA"
        path = root / "runs" / "run" / f"{4:019d}.pstk"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        deadline_s = time.monotonic() + 60
        while not client.list("run")[-1].damaged:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert client.latest("run").step == 3


def test_load_checkpoint_needs_no_client(place, client, run):
    client.save({"x": [1]}, run, 5, tags=("best",))
    assert penstock.load_checkpoint(place[0], run) == {"x": [1]}
    assert penstock.load_checkpoint(place[0], run, "best") == {"x": [1]}
    assert penstock.load_checkpoint(place[0], run, 5, only=("x",)) == [1]
    with pytest.raises(InvalidInput, match="give the run to load from"):
        penstock.load_checkpoint(place[0])


def test_background_saver_stores_all_in_order(place, run):
    tensor = torch.zeros(100_000)
    with penstock.AsyncCheckpointSaver(place[0], run=run) as saver:
        for step in range(5):
            tensor.fill_(step)
            saver.save_async({"w": tensor, "step": step}, step, metrics={"loss": float(step)})
        saver.wait()
        assert saver.newest.step == 4
    with penstock.open_checkpoints(place[0]) as client:
        for info in client.list(run):
            loaded = client.load(run, info.step)
            assert loaded["step"] == info.step == info.metrics["loss"]
            assert (loaded["w"] == info.step).all()
