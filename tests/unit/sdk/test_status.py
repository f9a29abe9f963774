from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from rich.console import Console
from unit.sampler.recording import arrays, write

from penstock import open_sampler
from penstock.cli import penstock
from penstock.client.sampler_status import ReplicaStatus, SamplerStatus, rates
from penstock.client.status_report import Report, show
from penstock.server import RunningServer, ServerSettings, start
from penstock.targets import Target


@contextlib.contextmanager
def sampler(folder: Path) -> Iterator[RunningServer]:
    backend = open_backend(Target.parse(f"file://{folder}/*.hdf5"))
    with start("sampler", ServerSettings(), SamplerService(backend).register) as server:
        yield server
    backend.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "a.hdf5", arrays(20))
    (folder / "bad.hdf5").write_text("no")
    return folder


def test_each_replica_behind_a_target_is_asked_for_itself(data: Path) -> None:
    with sampler(data) as one, sampler(data) as two:
        with open_sampler(one.target, retry_s=5) as client:
            client.fetch(np.arange(12))
        with open_sampler(two.target, retry_s=5) as client:
            client.fetch(np.arange(3))
        target = Target.parse(f"grpc://{one.address},{two.address}")
        with SamplerStatus(target) as status:
            found = status.ask()
            again = status.ask()
    assert [replica.address for replica in found] == [f"ipv4:{one.address}", f"ipv4:{two.address}"]
    assert [replica.transitions for replica in found] == [12, 3]
    assert len({replica.version for replica in found}) == 1
    assert all((replica.files, replica.refused_files) == (1, 1) for replica in found)
    assert [r.replica_id for r in again] == [r.replica_id for r in found]


def test_a_replica_that_is_away_is_named_beside_the_others(data: Path, unused_port: int) -> None:
    with sampler(data) as one:
        target = f"grpc://{one.address},127.0.0.1:{unused_port}"
        with SamplerStatus(Target.parse(target), timeout_s=2) as status:
            alive, away = status.ask()
        assert (alive.error, alive.files) == ("", 1)
        assert away.address == f"ipv4:127.0.0.1:{unused_port}"
        assert "does not answer" in away.error
        found = CliRunner().invoke(penstock, ["status", "--timeout-s", "2", target])
        assert found.exit_code == 1
        assert "away" in found.output


def test_speed_is_what_came_between_two_looks() -> None:
    before = [
        ReplicaStatus("a", asked_s=10.0, replica_id=1, transitions=100, sent_bytes=1000),
        ReplicaStatus("b", asked_s=10.0, replica_id=2, transitions=5),
    ]
    after = [
        ReplicaStatus("a", asked_s=14.0, replica_id=1, transitions=300, sent_bytes=9000),
        # Started anew in between: nothing can be said yet.
        ReplicaStatus("b", asked_s=14.0, replica_id=3, transitions=7),
        ReplicaStatus("c", error="away"),
    ]
    assert rates(before, after) == {1: (50.0, 2000.0)}


def test_json_has_a_row_for_each_replica(data: Path) -> None:
    with sampler(data) as server:
        with open_sampler(server.target, retry_s=5) as client:
            client.fetch(np.arange(12))
        found = CliRunner().invoke(penstock, ["status", "--json", server.target])
    assert found.exit_code == 0
    (report,) = json.loads(found.output.splitlines()[-1])  # the server here logs as well
    assert (report["target"], report["status"], report["healthy"]) == (
        server.target,
        "SERVING",
        True,
    )
    (replica,) = report["replicas"]
    assert (replica["transitions"], replica["refused_files"]) == (12, 1)
    assert int(replica["replica_id"]) > 0
    assert replica["transitions_per_s"] == 0
    assert replica["resident_bytes"] > 0


def test_the_table_shows_shares_speed_and_refusals(data: Path) -> None:
    with sampler(data) as one, sampler(data) as two:
        report = Report([f"grpc://{one.address},{two.address}"], timeout_s=5)
        report.look()
        with open_sampler(one.target, retry_s=5) as client:
            client.fetch(np.arange(9))
        with open_sampler(two.target, retry_s=5) as client:
            client.fetch(np.arange(3))
        found = report.look()
        report.close()
    console = Console(width=200, record=True)
    console.print(show(found))
    text = console.export_text()
    assert "75%" in text
    assert "25%" in text
    assert "1 -1" in text
    speeds = [bytes_per_s for _, bytes_per_s in found[0].rates.values()]
    assert len(speeds) == 2
    assert all(speed > 0 for speed in speeds)


def test_watching_looks_again_until_interrupted(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sampler(data) as server, open_sampler(server.target, retry_s=5) as client:
        looks: list[float] = []

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            client.fetch(np.arange(4))
            if len(looks) == 4:
                raise KeyboardInterrupt

        monkeypatch.setattr("penstock.client.status_report.time.sleep", sleep)
        found = CliRunner().invoke(
            penstock, ["status", server.target, "--watch", "--every-s", "0.5", "--json"]
        )
    assert found.exit_code == 0
    lines = [line for line in found.output.splitlines() if line.startswith("[{")]
    replicas = [json.loads(line)[0]["replicas"][0] for line in lines]
    assert [replica["transitions"] for replica in replicas] == [0, 4, 8, 12]
    assert looks == [0.5] * 4
    assert all(replica["bytes_per_s"] > 0 for replica in replicas[1:])
