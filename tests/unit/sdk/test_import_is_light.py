import subprocess
import sys

import pytest

HEAVY = {"torch", "h5py", "cv2", "pydantic", "structlog", "prometheus_client", "grpc", "google"}


def modules_after(statement):
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_import_penstock_loads_nothing_heavy():
    assert not modules_after("import penstock") & HEAVY


@pytest.mark.parametrize("name", ["open_sampler", "open_checkpoints", "AsyncCheckpointSaver"])
def test_clients_load_no_torch_h5py_cv2_or_pydantic(name):
    loaded = modules_after(f"from penstock import {name}")
    assert not loaded & {"torch", "h5py", "cv2", "pydantic", "structlog"}
