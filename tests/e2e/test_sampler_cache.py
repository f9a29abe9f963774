"""The frame cache across kills, interrupts, two processes at once and a terminal."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
import tenacity
from service_process import ServiceProcess

import penstock
from penstock.frame_file import FrameFile

pytestmark = pytest.mark.e2e

FILES, ROWS = 8, 100
CAMERAS = ("left_image", "right_image", "global_image")
SIZE = (160, 160)
"""Larger than stored, so that a file takes a while to build."""
PLAN = penstock.Plan(seed=5, batch_size=40, split="all")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(FILES):
        with h5py.File(folder / f"{number}.hdf5", "w") as file:
            group = file.create_group("observations")
            group["joint"] = rng.normal(size=(ROWS + 1, 4)).astype(np.float32)
            for camera in CAMERAS:
                group[camera] = rng.integers(0, 256, (ROWS + 1, 64, 64, 3), dtype=np.uint8)
            file["actions"] = rng.normal(size=(ROWS, 3)).astype(np.float32)
            file["rewards"] = rng.normal(size=ROWS).astype(np.float32)
            file["terminals"] = np.arange(ROWS) == ROWS - 1
    return folder


@pytest.fixture(scope="module")
def expected(data):
    """Batches of the plan, read without a cache in this process."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PENSTOCK_CACHE_DIR", "none")
        with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=SIZE) as client:
            return [client.sample(PLAN, step).frames.copy() for step in range(4)]


@pytest.fixture
def frames(tmp_path):
    return tmp_path / "frames"


def command(data, frames, *more):
    typed = ["sampler", "warm", f"{data}/*.hdf5", "--image-size", *map(str, SIZE)]
    return [sys.executable, "-m", "penstock.cli", *typed, "--cache-dir", str(frames), *more]


@pytest.fixture
def begin(data, frames):
    """Starts to cache; whatever is left of it at the end is killed."""
    begun = []

    def start(*more):
        process = subprocess.Popen(
            command(data, frames, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.002),
    stop=tenacity.stop_after_delay(60),
    reraise=True,
)
def wait_until(condition):
    assert condition()


def finished(frames):
    return {path.name: path.stat().st_ino for path in frames.glob("*.frames")}


def unfinished(frames):
    return [path.name for path in frames.glob("*.part")]


def pause_in_the_middle(process, frames, least=0):
    """Stop a process while it writes a file, ``least`` of them done, some still to be done."""

    def caught():
        assert process.poll() is None, "it ended before it was disturbed"
        if not unfinished(frames) or len(finished(frames)) < least:
            return False
        process.send_signal(signal.SIGSTOP)
        if unfinished(frames):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    wait_until(caught)
    assert len(finished(frames)) <= FILES - 2


def read_all(frames):
    """Every record of every file, checked against its hash by the reader."""
    for path in frames.glob("*.frames"):
        file = FrameFile.open(path)
        file.read_records(range(len(file)))


def read_through_the_cache(data, frames, expected):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PENSTOCK_CACHE_DIR", str(frames))
        with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=SIZE) as client:
            for step, batch in enumerate(expected):
                np.testing.assert_array_equal(client.sample(PLAN, step).frames, batch)


def test_killed_in_the_middle_it_goes_on_when_it_is_given_again(data, frames, begin, expected):
    process = begin("--jobs", "2")
    pause_in_the_middle(process, frames, least=2)
    process.kill()
    process.wait()
    kept, left = finished(frames), unfinished(frames)
    assert left
    # What is there can be used already.
    read_all(frames)

    again = begin("--jobs", "2")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert output.splitlines()[:2] == [
        f"{FILES - len(kept)} files cached now",
        f"{len(kept)} files were cached already",
    ]
    assert unfinished(frames) == []
    assert len(finished(frames)) == FILES
    assert kept.items() <= finished(frames).items()
    read_all(frames)
    read_through_the_cache(data, frames, expected)


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_interrupted_it_ends_soon_and_leaves_whole_files_only(frames, begin, jobs):
    process = begin("--jobs", jobs)
    pause_in_the_middle(process, frames)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Aborted!" in errors
    assert "Traceback" not in errors
    assert output == ""
    assert unfinished(frames) == []
    assert len(finished(frames)) < FILES
    read_all(frames)
    again = begin()
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert len(finished(frames)) == FILES


def test_two_at_once_share_the_work(data, frames, begin, expected):
    both = [begin("--jobs", "1"), begin("--jobs", "1")]
    reports = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], reports
    built = [int(n) for out, _ in reports for n in re.findall(r"(\d+) files cached now", out)]
    assert sum(built) == FILES
    assert len(finished(frames)) == FILES
    assert unfinished(frames) == []
    read_all(frames)
    read_through_the_cache(data, frames, expected)


def serve(data, frames, log):
    return ServiceProcess("sampler", "--data", str(data), "--cache-dir", str(frames), log=log)


def test_a_server_killed_while_it_caches_serves_right_bytes_after_its_restart(
    data, frames, tmp_path, expected
):
    with (
        serve(data, frames, tmp_path / "log") as server,
        penstock.open_sampler(server.target, image_size=SIZE) as client,
    ):
        # Sampling does not wait for the cache.
        np.testing.assert_array_equal(client.sample(PLAN, 0).frames, expected[0])
        pause_in_the_middle(server.process, frames)
        server.kill()
        assert unfinished(frames)
        server.start()
        for step, batch in enumerate(expected):
            np.testing.assert_array_equal(client.sample(PLAN, step).frames, batch)

        def all_cached():
            client.sample(PLAN, 0)
            return len(finished(frames)) == FILES and not unfinished(frames)

        wait_until(all_cached)
        read_all(frames)
        for step, batch in enumerate(expected):
            np.testing.assert_array_equal(client.sample(PLAN, step).frames, batch)
    log = (tmp_path / "log").read_text()
    assert "removed, its writer did not finish it" in log


def test_a_damaged_cache_under_a_server_is_mended_and_never_sent(
    data, frames, tmp_path, begin, expected
):
    warmed = begin()
    warmed.communicate(timeout=120)
    with (
        serve(data, frames, tmp_path / "log") as server,
        penstock.open_sampler(server.target, image_size=SIZE) as client,
    ):
        np.testing.assert_array_equal(client.sample(PLAN, 0).frames, expected[0])
        before = finished(frames)
        for name in before:
            with (frames / name).open("r+b") as file:
                # Noise is stored raw, so this goes through all of its records.
                size = file.seek(0, os.SEEK_END)
                for offset in range(size // 2, size, 60_000):
                    file.seek(offset)
                    file.write(b"\x55\xaa\x55\xaa")

        def mended():
            for step, batch in enumerate(expected):
                np.testing.assert_array_equal(client.sample(PLAN, step).frames, batch)
            now = finished(frames)
            return now.keys() == before.keys() and not set(now.values()) & set(before.values())

        wait_until(mended)
        read_all(frames)
    log = (tmp_path / "log").read_text()
    for name in before:
        assert log.count(f"{name}: dropped") == 1


def test_progress_goes_to_a_terminal_and_not_into_a_pipe(data, frames, begin):
    piped, _ = begin().communicate(timeout=120)
    assert "\x1b" not in piped
    assert [line.split(" ", 1)[1] for line in piped.splitlines()[:1]] == ["files cached now"]

    terminal, screen = pty.openpty()
    shown = bytearray()

    def read():
        try:
            while chunk := os.read(terminal, 65536):
                shown.extend(chunk)
        except OSError:  # how a terminal ends
            pass

    for path in sorted(frames.glob("*.frames"))[2:]:
        path.unlink()
    reader = threading.Thread(target=read)
    reader.start()
    process = subprocess.Popen(
        command(data, frames), stdout=screen, stderr=screen, env={**os.environ, "TERM": "xterm"}
    )
    os.close(screen)
    assert process.wait(120) == 0
    reader.join()
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "caching frames" in text
    assert re.search(r"MB/s", text)
    assert "6 files cached now" in text
    assert "2 files were cached already" in text
