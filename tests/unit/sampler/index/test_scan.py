import numpy as np
import pytest
from penstock_sampler.index import scan
from penstock_sampler.options import DataOptions
from unit.sampler.recording import arrays, write

ROWS, ROW_BYTES = 12, 8 * (4 + 3 + 1)


@pytest.mark.parametrize("observations", [ROWS, ROWS + 1])
@pytest.mark.parametrize("block_rows", [1, 4, 5, 12, 13])
def test_blocks_of_any_size_find_the_same(tmp_path, monkeypatch, observations, block_rows):
    """Blocks of 1, 4 and 12 rows leave observation N alone in the last one, without an action."""
    contents = arrays(ROWS, observations=observations, terminals=[4])
    path = write(tmp_path / "a.hdf5", contents)
    whole = scan.scan_file(path, DataOptions())
    monkeypatch.setattr(scan, "_BLOCK_BYTES", block_rows * ROW_BYTES)
    found = scan.scan_file(path, DataOptions())
    assert found.digest == whole.digest
    # Without an observation after it, the last row is no transition.
    kept = contents["actions"][: observations - 1]
    np.testing.assert_allclose(found.moments["action"].mean, kept.mean(axis=0), rtol=1e-5)
    assert found.moments["action"].count == len(kept)
