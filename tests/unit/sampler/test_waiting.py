from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from penstock_sampler.waiting import WaitingBackend
from unit.sampler.recording import arrays, write

from penstock import open_sampler
from penstock.errors import DataFault, NotFound
from penstock.server import ServerSettings, start
from penstock.targets import Target


def test_data_that_comes_later_is_served_at_the_next_call(tmp_path: Path) -> None:
    backend = WaitingBackend(lambda: open_backend(Target.parse(f"{tmp_path}/*.hdf5")))
    with pytest.raises(NotFound):
        backend.open()
    service = SamplerService(backend, group_bytes=1 << 20, max_calls=8)
    with start("sampler", ServerSettings(), service.register) as server:
        with pytest.raises(DataFault, match=r"nothing to serve yet.*no file matches") as caught:
            open_sampler(server.target, retry_s=5)
        assert caught.value.reason == "NO_DATA_YET"
        (tmp_path / "bad.hdf5").touch()
        with pytest.raises(DataFault, match=r"nothing to serve yet.*bad\.hdf5"):
            open_sampler(server.target, retry_s=5)
        write(tmp_path / "a.hdf5", arrays())
        with open_sampler(server.target, retry_s=5) as client:
            assert client.fetch(np.arange(10)).frames.any()
            write(tmp_path / "b.hdf5", arrays(seed=1))
            with open_sampler(server.target, retry_s=5) as second:
                assert second.info.version == client.info.version
    backend.close()
