"""Conversions as tasks: whoever stages what, and where, the dataset is the same to the byte."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bag_recording import START_NS, robot_messages, write_bag
from click.testing import CliRunner
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.outcome import read_outcome
from penstock_converter.jobs.request import Job
from penstock_converter.jobs.sharing import stage_share
from penstock_converter.jobs.stages import Stages
from penstock_converter.jobs.staging import staging_folder
from penstock_converter.scale.launch import check_room, launch

from penstock.cli import penstock
from penstock.errors import Conflict, InvalidInput, Unavailable, Unsupported

TOKEN = "of-this-test"  # noqa: S105 - no secret
OVERRIDE = "outputs.lerobot.preset=ultrafast"


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Five recordings; the second is none, the fourth has other images."""
    folder = tmp_path_factory.mktemp("bags")
    found = []
    for number, rows in enumerate((6, 5, 4, 3, 7)):
        path = folder / f"robot_{number}"
        if number == 1:
            path = folder / "robot_1.bag"
            path.write_bytes(b"no recording")
        else:
            size = (64, 64) if number == 3 else (32, 64)
            start_ns = START_NS + number * 10**10
            write_bag(path, robot_messages(rows, start_ns=start_ns, size=size))
        found.append(path)
    return tuple(found)


@pytest.fixture(scope="module")
def expected(bags, make_mapping, tmp_path_factory):
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("expected") / "out"
    run_job(Job(bags, make_mapping(OVERRIDE), out, workers=1))
    return out


def contents(folder):
    """What was made, without the reports of how."""
    reports = ("conversion.json", "validation")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not str(path.relative_to(folder)).startswith(reports)
    }


def assert_same(out, expected):
    assert contents(out) == contents(expected)
    assert read_outcome(out).bags == read_outcome(expected).bags
    assert [bag.reason for bag in read_outcome(out).bags] == [
        "",
        "BAG_UNREADABLE",
        "",
        "SCHEMA_MISMATCH",
        "",
    ]
    assert not out.with_name(f".{out.name}.partial").exists()


def test_shares_of_any_order_and_number_make_the_same_dataset(
    bags, make_mapping, tmp_path, expected, monkeypatch
):
    job = Job(bags, make_mapping(OVERRIDE), tmp_path / "out")
    told = {}
    for rank in (2, 0, 1):
        told |= dict(stage_share(job, rank, 3, TOKEN))
    assert sorted(told) == sorted(map(str, bags))
    assert [name for name, refusal in told.items() if refusal] == [str(bags[1])]

    def never(*_, **__):
        raise AssertionError("staged or refused before, and converted again")

    monkeypatch.setattr(Stages, "convert", never)
    run_job(job, token=TOKEN)
    assert_same(tmp_path / "out", expected)
    assert list(stage_share(job, 0, 3, TOKEN)) == []


def test_what_a_task_left_is_converted_when_joining(bags, make_mapping, tmp_path, expected):
    job = Job(bags, make_mapping(OVERRIDE), tmp_path / "out", workers=1)
    assert len(list(stage_share(job, 1, 2, TOKEN))) == 2
    run_job(job, token=TOKEN)
    assert_same(tmp_path / "out", expected)


def test_shares_append_to_a_dataset(bags, make_mapping, tmp_path, expected):
    mapping = make_mapping(OVERRIDE)
    run_job(Job(bags[:1], mapping, tmp_path / "out", workers=1))
    job = Job(bags, mapping, tmp_path / "out", append=True, workers=1)
    told = [name for rank in (1, 0) for name, _ in stage_share(job, rank, 2, TOKEN)]
    assert sorted(told) == sorted(map(str, bags[1:]))
    run_job(job, token=TOKEN)
    assert_same(tmp_path / "out", expected)


def test_a_refusal_counts_for_its_own_attempt_only(bag, make_mapping, tmp_path, monkeypatch):
    job = Job((bag,), make_mapping(), tmp_path / "out", workers=1)
    honest = Stages.convert

    def faulty(*_, **__):
        raise MemoryError("too little here")

    monkeypatch.setattr(Stages, "convert", faulty)
    ((_, refusal),) = stage_share(job, 0, 1, TOKEN)
    assert refusal.reason == "INTERNAL"
    monkeypatch.setattr(Stages, "convert", honest)
    (refused,) = run_job(job, token=TOKEN).bags
    assert (refused.reason, refused.error) == (
        "INTERNAL",
        f"{bag}: the converter failed (MemoryError: too little here)",
    )
    monkeypatch.setattr(Stages, "convert", faulty)
    list(stage_share(job, 0, 1, TOKEN))
    monkeypatch.setattr(Stages, "convert", honest)
    assert len(run_job(job, token="of another attempt").converted) == 1  # noqa: S106 - no secret


def test_shares_go_together_but_not_with_a_process_that_does_not_share(bag, make_mapping, tmp_path):
    job = Job((bag,), make_mapping(), tmp_path / "out")
    with staging_folder(job.out, shared=True):
        assert len(list(stage_share(job, 0, 1, TOKEN))) == 1
        with pytest.raises(Conflict):
            run_job(job)
    with staging_folder(job.out), pytest.raises(Conflict):
        list(stage_share(job, 0, 1, TOKEN))


@pytest.fixture
def command(bags, mapping_text, tmp_path):
    """The command line up to the options of an executor; recordings by relative paths."""
    (tmp_path / "mapping.yaml").write_text(mapping_text)
    for bag in bags:
        (tmp_path / bag.name).symlink_to(bag)
    names = [bag.name for bag in bags]
    return ["convert", *names, "--mapping", "mapping.yaml", "--out", "out", OVERRIDE]


def run(command, folder, **environment):
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def expected_here(tmp_path, expected, bags):
    """The dataset of one process, with recordings named as in ``command``."""
    here = tmp_path / "expected"
    shutil.copytree(expected, here)
    report = here / "conversion.json"
    report.write_text(report.read_text().replace(f"{bags[0].parent}/", ""))
    return here


def logs_of(folder):
    (attempt,) = (folder / "out.logs").iterdir()
    return attempt


def test_two_local_tasks_make_the_same_dataset(command, tmp_path, expected_here, monkeypatch):
    done = run([*command, "--executor", "local", "--tasks", "2"], tmp_path)
    assert done.returncode == 3, done.stderr
    assert_same(tmp_path / "out", expected_here)
    logs = sorted((logs_of(tmp_path) / "logs").iterdir())
    assert [path.name for path in logs] == ["task_00000.log", "task_00001.log"]
    assert "staged robot_0" in logs[0].read_text()
    assert "refused robot_1.bag (BAG_UNREADABLE)" in logs[1].read_text()
    monkeypatch.chdir(tmp_path)
    again = CliRunner().invoke(penstock, [*command, "--executor", "local"])
    assert "done before" in again.output
    assert logs_of(tmp_path)


@pytest.fixture
def short_folder():
    """Sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield folder


def test_two_tasks_on_ray_make_the_same_dataset(command, tmp_path, expected_here, short_folder):
    options = ["--tasks", "2", "--ray", "cpus_per_task=1", "--ray", "mem_per_cpu_gb=0.25"]
    done = run(
        [*command, "--executor", "ray", *options],
        tmp_path,
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",
        RAY_TMPDIR=short_folder,
        RAY_ADDRESS="local",
        RAY_raylet_start_wait_time_s="150",  # machines that test are busy
    )
    assert done.returncode == 3, done.stderr
    assert "did not come to their end" not in done.stderr
    assert_same(tmp_path / "out", expected_here)
    assert len(list((logs_of(tmp_path) / "completions").iterdir())) == 2


SBATCH = """\
#!{python}
import pathlib, shutil, sys
queue = pathlib.Path({queue!r})
number = len(list(queue.glob("*.sh")))
shutil.copy(sys.argv[-1], queue / f"{{number}}.sh")
(queue / f"{{number}}.args").write_text("\\n".join(sys.argv[1:-1]))
print("Submitted batch job", number)
"""
SRUN = '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\necho "$3"\n'


class FakeSlurm:
    """A queue of jobs that are run when a test says so, those submitted last first."""

    def __init__(self, folder: Path):
        self.queue, self.programs = folder / "queue", folder / "programs"
        for made in (self.queue, self.programs):
            made.mkdir()
        sbatch = SBATCH.format(python=sys.executable, queue=str(self.queue))
        for name, text in (("sbatch", sbatch), ("srun", SRUN), ("scontrol", SCONTROL)):
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)
        self.ended: dict[str, bool] = {}

    @property
    def environment(self):
        return {"PATH": f"{self.programs}:{os.environ['PATH']}"}

    def settings(self, number):
        """Options of a job, in its script and beside it."""
        text = (self.queue / f"{number}.sh").read_text()
        lines = re.findall(r"^#SBATCH (--.*)$", text, re.MULTILINE)
        lines += (self.queue / f"{number}.args").read_text().split("\n")
        return dict(line.removeprefix("--").partition("=")[::2] for line in lines if line)

    def first_named(self, name):
        numbers = (path.stem for path in self.queue.glob("*.sh"))
        return min(n for n in numbers if self.settings(n)["job-name"] == name)

    def may_run(self, number):
        rule, _, needed = self.settings(number).get("dependency", "").partition(":")
        if not rule:
            return True
        return needed in self.ended and (rule == "afterany" or self.ended[needed])

    def run_until(self, last, folder):
        waiting = [path.stem for path in self.queue.glob("*.sh")]
        while last in waiting:
            number = max(filter(self.may_run, waiting), key=int)
            waiting.remove(number)
            self.ended[number] = all(
                self.run_task(number, rank, folder) for rank in self.ranks(number)
            )

    def ranks(self, number):
        first, last = self.settings(number)["array"].split("%")[0].split("-")
        return range(int(first), int(last) + 1)

    def run_task(self, number, rank, folder):
        exported = self.settings(number).get("export", "ALL").split(",")[1:]
        environment = {
            **os.environ,
            **self.environment,
            **dict(pair.split("=") for pair in exported),
            "SLURM_ARRAY_TASK_ID": str(rank),
            "SLURM_JOB_ID": number,
            "SLURM_NODELIST": "this-node",
        }
        ended = subprocess.run(
            ["bash", str(self.queue / f"{number}.sh")],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return ended.returncode == 0


@pytest.fixture
def slurm(tmp_path_factory):
    return FakeSlurm(tmp_path_factory.mktemp("slurm"))


def test_slurm_stages_in_an_array_and_joins_when_it_has_ended(
    command, tmp_path, expected_here, slurm
):
    options = ["time=01:00:00", "partition=cpu", "workers=1", "account=robots"]
    given = [word for option in options for word in ("--slurm", option)]
    done = run(
        [*command, "--executor", "slurm", "--tasks", "2", *given], tmp_path, **slurm.environment
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    stage, join = map(slurm.first_named, ("penstock-out-stage", "penstock-out-join"))
    settings = slurm.settings(stage)
    assert (
        settings.items()
        >= {
            "array": "0-1%1",
            "time": "01:00:00",
            "partition": "cpu",
            "account": "robots",
            "cpus-per-task": "2",
            "mem-per-cpu": "2G",
        }.items()
    )
    assert "qos" not in settings
    assert slurm.settings(join)["dependency"] == f"afterany:{stage}"
    assert slurm.settings(join)["array"] == "0-0%1"
    assert f"Slurm job {join} makes {tmp_path / 'out'}" in done.stderr
    slurm.run_until(join, tmp_path)
    assert slurm.ended[stage]
    assert slurm.ended[join]
    assert_same(tmp_path / "out", expected_here)
    log = (logs_of(tmp_path) / "join/logs/task_00000.log").read_text()
    assert "refused robot_1.bag (BAG_UNREADABLE)" in log
    assert json.loads((logs_of(tmp_path) / "stage/ranks_to_run.json").read_text()) == [0, 1]


def test_jobs_that_slurm_refuses_are_told(bag, make_mapping, tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    (slurm.programs / "sbatch").write_text("#!/bin/bash\nexit 7\n")
    job = Job((bag,), make_mapping(), tmp_path / "out")
    with pytest.raises(Unavailable, match=r"exit status 7.*nothing was submitted"):
        launch(job, "slurm", options={"time": "1", "partition": "cpu"})


def test_options_that_do_not_fit_are_named(bag, mapping_text, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mapping.yaml").write_text(mapping_text)
    base = [bag, "--mapping", tmp_path / "mapping.yaml", "--out", tmp_path / "out"]

    def error(*options):
        result = CliRunner().invoke(penstock, ["convert", *map(str, (*base, *options))])
        assert not (tmp_path / "out").exists()
        return result.exception

    for options, kind, text in [
        (("--tasks", "2"), InvalidInput, "--tasks goes with --executor"),
        (("--slurm", "time=1"), InvalidInput, "--slurm goes with --executor slurm"),
        (("--executor", "ray", "--ray", "cpus=1"), InvalidInput, "cpus is no option of ray"),
        (("--executor", "ray", "--ray", "workers=many"), InvalidInput, "expected a number"),
        (("--executor", "slurm", "--slurm", "time"), InvalidInput, "expected KEY=VALUE"),
        (("--executor", "slurm", "--slurm", "time=1"), InvalidInput, "needs partition"),
        (
            ("--executor", "slurm", "--slurm", "time=1", "--slurm", "partition=cpu"),
            Unsupported,
            "sbatch is not on this machine",
        ),
    ]:
        found = error(*options)
        assert isinstance(found, kind), (options, found)
        assert text in found.message


def test_a_dataset_that_slurm_makes_later_is_not_uploaded_now(
    bag, mapping_text, tmp_path, monkeypatch
):
    monkeypatch.setattr("penstock_converter.hub.check_repository", lambda _: None)
    (tmp_path / "mapping.yaml").write_text(mapping_text)
    options = ["--mapping", tmp_path / "mapping.yaml", "--out", tmp_path / "out"]
    options += ["--executor", "slurm", "--push-to-hub", "me/reach"]
    found = CliRunner().invoke(penstock, ["convert", *map(str, (bag, *options))]).exception
    assert isinstance(found, InvalidInput)
    assert "penstock convert push" in found.message


def test_tasks_that_no_ray_cluster_has_room_for_are_refused():
    task = {"cpus_per_task": 2, "mem_per_cpu_gb": 1.5}
    check_room({"CPU": 2.0, "memory": 3.0 * 2**30}, task)
    for cluster in ({"CPU": 1.0, "memory": 2.0**40}, {"CPU": 64.0, "memory": 2.9 * 2**30}, {}):
        with pytest.raises(InvalidInput, match=r"needs 2 CPUs and 3\.0 GiB"):
            check_room(cluster, task)


@pytest.mark.parametrize(
    ("executor", "module", "extra"), [("local", "datatrove", "scale"), ("ray", "ray", "ray")]
)
def test_a_missing_extra_is_named(
    bag, make_mapping, tmp_path, monkeypatch, executor, module, extra
):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "penstock_converter.scale.steps", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=rf"pip install 'penstock\[{extra}\]'"):
        launch(Job((bag,), make_mapping(), tmp_path / "out"), executor)
