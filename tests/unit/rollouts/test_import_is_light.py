"""Importing the part for rollouts loads no torch, and its names are all there."""

import subprocess
import sys

import penstock.rollouts


def modules_after(statement):
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_package_alone_loads_nothing_heavy():
    heavy = {"torch", "tensordict", "grpc", "pydantic", "structlog"}
    assert not modules_after("import penstock.rollouts") & heavy


def test_storage_and_collector_load_no_torch_or_service():
    names = ", ".join(penstock.rollouts.__all__)
    loaded = modules_after(f"from penstock.rollouts import {names}")
    assert not loaded & {"torch", "tensordict", "pydantic", "structlog", "penstock_checkpointer"}


def test_arrays_are_stored_without_torch():
    loaded = modules_after(
        "import numpy, tempfile; from penstock.rollouts import RolloutStorage; "
        "storage = RolloutStorage(tempfile.mkdtemp()); "
        "storage.save({'x': numpy.zeros((2, 3))}, 1); storage.load(1)"
    )
    assert not loaded & {"torch", "tensordict"}


def test_every_public_name_is_there():
    for name in penstock.rollouts.__all__:
        assert getattr(penstock.rollouts, name).__name__ == name
    assert dir(penstock.rollouts) == penstock.rollouts.__all__
