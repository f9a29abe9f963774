"""Damaged chunks are told from sound ones, and never write outside their place."""

from __future__ import annotations

import io
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from penstock_sampler.sources.filters import NeedsHdf5, Pipeline, read_pipeline

from penstock import native
from penstock.errors import Corrupt

COMPRESSORS: dict[str, Any] = {
    "gzip": {"compression": "gzip"},
    "lz4": hdf5plugin.LZ4(),
    "blosc": hdf5plugin.Blosc(cname="lz4"),
}
if native.available():
    COMPRESSORS["lzf"] = {"compression": "lzf"}
_GUARD = 64


def _encoded(compressor: str) -> tuple[Pipeline, np.ndarray, np.ndarray]:
    frame = np.repeat(np.arange(48, dtype=np.uint8), 12).reshape(1, 12, 16, 3)
    with h5py.File(io.BytesIO(), "w") as file:
        stored = file.create_dataset("a", data=frame, chunks=frame.shape, **COMPRESSORS[compressor])
        mask, data = stored.id.read_direct_chunk((0, 0, 0, 0))
        assert mask == 0
        return read_pipeline(stored.id.get_create_plist()), np.frombuffer(data, np.uint8), frame


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_any_damage_is_corrupt_and_stays_inside(compressor: str) -> None:
    pipeline, sound, frame = _encoded(compressor)
    rng = np.random.default_rng(8)
    refused = 0
    for number in range(400):
        data = sound.copy()
        for place in rng.integers(0, len(data) if number % 2 else 24, rng.integers(1, 5)):
            data[place] = rng.integers(0, 256)
        if number % 5 == 0:
            data = data[: rng.integers(0, len(data))]
        room = np.full(frame.size + 2 * _GUARD, 9, np.uint8)
        try:
            pipeline.run(data, 0, room[_GUARD:-_GUARD])
        except Corrupt:
            refused += 1
        assert (room[:_GUARD] == 9).all()
        assert (room[-_GUARD:] == 9).all()
    assert refused > 100


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("size", ["shorter", "longer"])
def test_a_chunk_of_another_size_is_corrupt(compressor: str, size: str) -> None:
    pipeline, sound, frame = _encoded(compressor)
    out = np.empty(frame.size + (1 if size == "longer" else -1), np.uint8)
    with pytest.raises(Corrupt):
        pipeline.run(sound.copy(), 0, out)


def test_a_chunk_whose_filter_was_left_out_is_taken_as_it_is() -> None:
    pipeline, _, frame = _encoded("gzip")
    out = np.empty(frame.size, np.uint8)
    pipeline.run(frame.reshape(-1), 1, out)
    np.testing.assert_array_equal(out, frame.reshape(-1))
    with pytest.raises(Corrupt, match=f"{frame.size - 1} bytes: expected {frame.size}"):
        pipeline.run(frame.reshape(-1)[1:], 1, out)


def test_a_gzip_chunk_with_a_wrong_checksum_is_corrupt() -> None:
    pipeline, sound, frame = _encoded("gzip")
    data = sound.copy()
    data[-1] ^= 1
    with pytest.raises(Corrupt, match="gzip"):
        pipeline.run(data, 0, np.empty(frame.size, np.uint8))


def test_two_compressors_are_left_to_the_library() -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((1, 4))
    created.set_deflate(1)
    created.set_deflate(1)
    with pytest.raises(NeedsHdf5, match="filter 1"):
        read_pipeline(created)
