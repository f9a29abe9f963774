"""The demo, shortened, with every service as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e

SMALL = ["--episodes", "24", "--bc-steps", "10", "--lapo-steps", "10", "--rollouts", "4"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": "examples", "COLUMNS": "200"}


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "bag_to_policy", "--out", str(out), *SMALL]


def processes_of(out: Path) -> list[psutil.Process]:
    """Every process that was started to work in ``out``."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(out) in word for word in process.info["cmdline"] or ())
    ]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "out"
    ran = subprocess.run(
        command(out),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    # Ten steps teach nothing: the demo says so by its exit code, and all the rest is there.
    assert ran.returncode == 1, ran.stdout
    return out, ran.stdout


def test_the_demo_goes_from_bags_to_measured_policies(first_run: tuple[Path, str]) -> None:
    out, said = first_run
    summary = json.loads((out / "summary.json").read_text())
    assert summary["behaviour"]["episodes"] == 24
    for name in ("bc", "lapo"):
        assert summary[name]["episodes"] == 4
        assert -60 < summary[name]["return_mean"] < 1
        assert 0 <= summary[name]["success_rate"] <= 1
    assert summary["batches_per_s"] > 0
    assert summary["batch_compression"] > 1
    assert re.search(r"LAPO's mean return .* is less than 4 above the recorded behaviour", said)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<svg") == 2


def test_nothing_of_a_demo_that_has_ended_runs_on(first_run: tuple[Path, str]) -> None:
    out, _ = first_run
    assert processes_of(out) == []


def test_a_second_run_reuses_what_is_done(first_run: tuple[Path, str]) -> None:
    out, _ = first_run
    made = [*out.glob("bags/*/*.mcap"), *out.glob("hdf5/*.hdf5")]
    assert len(made) == 48
    before = {path: path.stat().st_mtime_ns for path in made}
    first = json.loads((out / "summary.json").read_text())
    ran = subprocess.run(command(out), env=ENVIRONMENT, capture_output=True, timeout=240)  # noqa: PLW1510 - exit code 1 is expected
    assert ran.returncode == 1
    assert {path: path.stat().st_mtime_ns for path in made} == before
    second = json.loads((out / "summary.json").read_text())
    assert {name: second[name] for name in ("behaviour", "bc", "lapo")} == {
        name: first[name] for name in ("behaviour", "bc", "lapo")
    }
    runs = sorted(path.name for path in (out / "results").glob("Exp*"))
    assert len(runs) == 2


def test_ctrl_c_in_mid_training_stops_every_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = [*command(out), "--bc-steps", "100000"]
    with subprocess.Popen(
        long, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if re.match(r"train\b", line):
                break
        assert len(processes_of(out)) >= 4  # the demo and its three services
        demo.send_signal(signal.SIGINT)
        said = demo.stdout.read()
        assert demo.wait(60) == 130
        assert "the same command goes on from here" in said
    assert processes_of(out) == []
