import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from penstock.native import Kernels

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))
from hatch_build import KernelsHook, build  # noqa: E402

COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler here")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a wheel is made of, without a library built before."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src/penstock/native", tmp_path / "src/penstock/native", ignore=ignored)
    for service in ("sampler", "trainer", "checkpointer", "converter"):
        package = tmp_path / f"services/{service}/penstock_{service}"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    return tmp_path


def wheel_of(checkout):
    (path,) = WheelBuilder(str(checkout)).build(
        directory=str(checkout / "dist"), versions=["standard"]
    )
    return Path(path), zipfile.ZipFile(path).namelist()


@needs_compiler
def test_a_wheel_has_kernels_and_is_tagged_for_its_platform(checkout):
    wheel, names = wheel_of(checkout)
    assert "penstock/native/kernels.so" in names
    assert "-py3-none-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        archive.extract("penstock/native/kernels.so", checkout)
    assert Kernels(checkout / "penstock/native/kernels.so", "portable").level == "portable"


@needs_compiler
def test_an_editable_install_builds_into_the_checkout_and_stays_for_any_platform(checkout):
    hook = KernelsHook(str(checkout), {}, None, None, "", "wheel", None)
    build_data = {"artifacts": [], "pure_python": True}
    hook.initialize("editable", build_data)
    Kernels(checkout / "src/penstock/native/kernels.so")
    assert build_data["pure_python"]
    assert "tag" not in build_data


def test_a_source_archive_needs_no_compiler(checkout, monkeypatch):
    monkeypatch.setenv("CC", "/no/such/cc")
    hook = KernelsHook(str(checkout), {}, None, None, "", "sdist", None)
    hook.initialize("standard", {})


@pytest.mark.parametrize("compiler", ["/no/such/cc", "false"])
def test_without_a_working_compiler_the_wheel_is_for_any_platform(
    checkout, monkeypatch, capfd, compiler
):
    monkeypatch.setenv("CC", compiler)
    stale = checkout / "src/penstock/native/kernels.so"
    stale.write_bytes(b"of older sources")
    wheel, names = wheel_of(checkout)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names if name.endswith(".so")]
    said = "".join(capfd.readouterr())
    assert "without its native kernels" in said
    assert compiler in said


def test_no_compiler_at_all_is_a_reason_not_an_error(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler was found" in build(ROOT, output=tmp_path / "kernels.so")
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_the_sources_compile_without_warnings(tmp_path):
    flags = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
    assert build(ROOT, *flags, output=tmp_path / "kernels.so") == ""


@needs_compiler
def test_sanitizers_find_nothing_under_hostile_input(tmp_path):
    library = tmp_path / "kernels.so"
    problem = build(
        ROOT,
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        output=library,
    )
    runtime = subprocess.run(
        [COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if problem or not Path(runtime).is_file():
        pytest.skip(f"this compiler brings no address sanitizer {problem}")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(Path(runtime).resolve()),
        # Python keeps memory until its end on purpose.
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hostile_input.py")), str(library)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 1000
