"""Whatever happens, the demo leaves no process behind, and a service that dies comes back."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from bag_to_policy.processes import Processes

from penstock.errors import Unavailable
from penstock.server.port import free_port

SERVICE = """
import subprocess, sys
from penstock.server import ServerSettings, serve
# A child that heeds no signal but SIGKILL: whoever stops the service has to take it along.
child = subprocess.Popen([sys.executable, "-c",
    "import signal\\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\\nsignal.pause()"])
print("child", child.pid, flush=True)
serve("toy", ServerSettings(port=int(sys.argv[1])), lambda server: [])
"""

DEMO = """
import sys
from pathlib import Path
from bag_to_policy.processes import Processes
with Processes(Path(sys.argv[2])) as processes:
    processes.serve("toy", [sys.executable, sys.argv[1], sys.argv[3]])
    processes.wait_until_healthy("toy", f"grpc://127.0.0.1:{sys.argv[3]}")
    print("ready", flush=True)
    processes.run([sys.executable, "-c", "import signal; print('running', flush=True); "
                   "signal.pause()"])
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    script = tmp_path / "service.py"
    script.write_text(SERVICE)
    return script


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(
    tmp_path: Path, service: Path, number: signal.Signals
) -> None:
    script = tmp_path / "demo.py"
    script.write_text(
        "import signal\nsignal.signal(15, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))\n"
        + DEMO
    )
    command = [sys.executable, script, service, tmp_path / "logs", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": "examples"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"ready\n"
        assert demo.stdout.readline() == b"running\n"
        descendants = psutil.Process(demo.pid).children(recursive=True)
        assert len(descendants) == 3  # the service, its child, and what runs in the foreground
        demo.send_signal(number)
        demo.wait(30)
        _, left = psutil.wait_procs(descendants, timeout=10)
        assert left == []
    assert demo.returncode != 0


def test_a_demo_that_is_killed_takes_its_services_along(tmp_path: Path, service: Path) -> None:
    script = tmp_path / "demo.py"
    script.write_text(DEMO)
    command = [sys.executable, script, service, tmp_path / "logs", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": "examples"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"ready\n"
        assert demo.stdout.readline() == b"running\n"
        own = psutil.Process(demo.pid).children()
        foreign = [child for process in own for child in process.children()]
        assert len(own) == 2
        demo.kill()
        _, left = psutil.wait_procs(own, timeout=20)
        for process in foreign:
            process.kill()
        assert left == []


def test_a_service_that_is_killed_is_started_again(tmp_path: Path, service: Path) -> None:
    port, said, restarted = free_port(), [], threading.Event()

    def say(text: str) -> None:
        said.append(text)
        restarted.set()

    target = f"grpc://127.0.0.1:{port}"
    with Processes(tmp_path / "logs", say) as processes:
        processes.serve("toy", [sys.executable, str(service), str(port)])
        processes.wait_until_healthy("toy", target)
        first = processes.process_ids["toy"]
        logged = (tmp_path / "logs" / "toy.log").read_text()
        orphan = psutil.Process(int(logged.split("child ")[1].split()[0]))
        os.kill(first, signal.SIGKILL)
        assert restarted.wait(10)
        processes.wait_until_healthy("toy", target)
        assert processes.process_ids["toy"] != first
    assert said == ["toy ended with code -9: it is started again"]
    assert not psutil.pid_exists(processes.process_ids["toy"])
    assert psutil.wait_procs([orphan], timeout=10)[1] == []


def test_a_service_that_keeps_dying_is_given_up_and_its_log_shown(tmp_path: Path) -> None:
    said: list[str] = []
    with Processes(tmp_path / "logs", said.append) as processes:
        processes.serve("toy", [sys.executable, "-c", "raise SystemExit('no such option')"])
        with pytest.raises(Unavailable, match=r"(?s)toy does not serve.*no such option"):
            processes.wait_until_healthy("toy", "grpc://127.0.0.1:1")
    assert said[-1].startswith("toy ended 4 times, see ")


def test_what_has_done_its_work_is_not_started_again(tmp_path: Path) -> None:
    once = tmp_path / "failed-once"
    script = (
        "import pathlib, sys; once = pathlib.Path(sys.argv[1]); failed = once.exists(); "
        "once.touch(); print('done' if failed else 'failed', flush=True); sys.exit(not failed)"
    )
    said: list[str] = []
    with Processes(tmp_path / "logs", said.append) as processes:
        command = [sys.executable, "-c", script, str(once)]
        processes.serve("toy", command, until_done=True)
        with pytest.raises(Unavailable):  # said as soon as nobody watches it any more
            processes.wait_until_healthy("toy", "grpc://127.0.0.1:1")
    assert said == ["toy ended with code 1: it is started again"]
    assert (tmp_path / "logs" / "toy.log").read_text() == "failed\ndone\n"


def test_the_exit_code_of_a_command_comes_back(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        assert processes.run([sys.executable, "-c", "raise SystemExit(7)"]) == 7
