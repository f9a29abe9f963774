"""The frame of a file: sizes, digests, determinism, bounded memory, life without torch."""

import io
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
import xxhash

from penstock import container
from penstock.container import Limits
from penstock.errors import InvalidInput, LimitExceeded

PROFILES = ["small", "fast", "none"]


def weights(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("compress", PROFILES)
def test_same_state_gives_the_same_bytes(compress):
    def written():
        file = io.BytesIO()
        container.write({"w": weights(500_000), "step": 3}, file, compress=compress)
        return file.getvalue()

    assert written() == written()


@pytest.mark.parametrize("compress", PROFILES)
def test_digest_is_that_of_the_whole_file(compress, tmp_path):
    path = tmp_path / "a.pstk"
    written = container.write_file({"w": weights(700_000)}, path, compress=compress)
    data = path.read_bytes()
    assert written.digest.size_bytes == len(data)
    assert written.digest.xxh3_128 == xxhash.xxh3_128_digest(data)
    verified = container.verify(path)
    assert verified.digest == written.digest
    assert verified.raw_size_bytes == written.raw_size_bytes == 2_800_000
    assert verified.chunk_count == written.chunk_count == 3


def test_profiles_compress_trained_weights_as_promised():
    state = {"w": weights(2_000_000)}
    sizes = {}
    for compress in PROFILES:
        file = io.BytesIO()
        sizes[compress] = container.write(state, file, compress=compress).digest.size_bytes / 8e6
        assert torch.equal(container.read(file)["w"], state["w"])
    assert sizes["small"] < 0.84
    assert sizes["fast"] < 0.88
    assert 1 < sizes["none"] < 1.001


def test_zeros_take_almost_nothing():
    file = io.BytesIO()
    assert container.write(torch.zeros(4_000_000), file).digest.size_bytes < 20_000
    assert not container.read(file).any()


def test_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="choose one of small, fast, delta, policy-bf16, none"):
        container.write({}, io.BytesIO(), compress="zip")


def test_meta_is_kept():
    file = io.BytesIO()
    container.write(1, file, meta={"run": "a"})
    with container.Reader(file) as reader:
        assert reader.meta == {"run": "a"}


def test_index_names_every_tensor():
    file = io.BytesIO()
    container.write({"net": {"w": torch.ones(2, 3)}, "list": [np.zeros(4)]}, file)
    with container.Reader(file) as reader:
        found = {path: entry.shape for path, entry in reader.index.named_entries()}
    assert found == {"net.w": (2, 3), "list.0": (4,)}


def test_index_is_plain_json_at_the_place_the_footer_says(tmp_path):
    path = tmp_path / "a.pstk"
    container.write_file({"x": 1, "t": torch.ones(3)}, path)
    data = path.read_bytes()
    offset = int.from_bytes(data[-40:-32], "little")
    size = int.from_bytes(data[-32:-24], "little")
    index = json.loads(data[offset : offset + size])
    assert index["tree"] == {"d": [["x", 1], ["t", {"t": 0}]]}


def test_write_that_fails_leaves_neither_file_nor_part(tmp_path):
    with pytest.raises(InvalidInput):
        container.write_file({"x": object()}, tmp_path / "a.pstk")
    assert list(tmp_path.iterdir()) == []


def test_state_beyond_the_limit_is_refused_before_it_is_written():
    file = io.BytesIO()
    with pytest.raises(LimitExceeded, match="4000 bytes of tensors, the limit is 1000"):
        container.write(torch.ones(1000), file, limits=Limits(raw_size_bytes=1000))
    assert file.getvalue() == b""


def test_index_beyond_the_limit_is_refused_at_save():
    with pytest.raises(LimitExceeded, match="put long lists of numbers into arrays"):
        container.write(list(range(1000)), io.BytesIO(), limits=Limits(index_size_bytes=1000))


def test_verify_needs_memory_for_a_chunk_not_for_the_file(tmp_path):
    path = tmp_path / "a.pstk"
    container.write_file({"w": weights(16_000_000)}, path, compress="none")
    tracemalloc.start()
    container.verify(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 64_000_000
    assert peak_bytes < 4_000_000


NO_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from pathlib import Path
from penstock import container
from penstock.errors import Unsupported
folder = Path(sys.argv[1])
container.write_file({"a": np.arange(3), "n": 1}, folder / "numpy.pstk", compress="fast")
assert container.read(folder / "numpy.pstk")["a"].tolist() == [0, 1, 2]
weight = container.read(folder / "torch.pstk", only=("w",), as_numpy=True)
assert weight.tolist() == [[0, 2], [1, 3]] and weight.dtype == np.float32
assert container.read(folder / "torch.pstk", only=("size",), as_numpy=True) == (2, 2)
container.verify(folder / "torch.pstk")
for options, only in (({}, ("w",)), ({"as_numpy": True}, ("b",))):
    try:
        container.read(folder / "torch.pstk", only=only, **options)
    except Unsupported as error:
        print(error.reason)
"""


def test_without_torch_arrays_work_and_tensors_come_as_arrays(tmp_path):
    state = {
        "w": torch.arange(4, dtype=torch.float32).reshape(2, 2).t(),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "size": torch.Size([2, 2]),
    }
    container.write_file(state, tmp_path / "torch.pstk", compress="fast")
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["TORCH_MISSING", "NUMPY_DTYPE"]


WITHOUT_TORCH_OR_BLOSC2 = """
import io, sys, numpy as np
from penstock import container
file = io.BytesIO()
for compress in ("small", "fast", "delta", "policy-bf16"):
    container.write({"w": np.zeros(9000, np.float32)}, file, compress=compress)
print({"torch", "blosc2"} & set(sys.modules))
"""


def test_writing_loads_neither_torch_nor_blosc2():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH_OR_BLOSC2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
