"""Where rollouts are kept: a directory of this process, and a server."""

import pytest
from penstock_checkpointer.rollouts.service import RolloutService
from penstock_checkpointer.rollouts.store import RolloutStore

from penstock.server import ServerSettings, start


@pytest.fixture(params=["directory", "server"])
def target(request, tmp_path):
    """The target of an empty store."""
    root = tmp_path / "store"
    if request.param == "directory":
        yield f"file://{root}"
        return
    store = RolloutStore(root)
    with start("checkpointer", ServerSettings(), RolloutService(store).register) as server:
        yield server.target
    store.close()
