"""Page-locked memory of batches: PyTorch's own, known to it by every tensor over it.

There is no GPU here: ordinary tensors stand for page-locked ones, all else is as it is.
"""

import gc
import weakref

import numpy as np
import pytest
import torch
from sampler_replicas import write_files

import penstock
from penstock.client.sampler.opening import _buffers
from penstock.torch import BatchDataset, pinned

PLAN = penstock.Plan(batch_size=4, split="all")


@pytest.fixture
def given(monkeypatch):
    """What was given out as page-locked memory: its address, and a weak reference to it."""
    found = []

    def page_locked(size_bytes):
        memory = np.empty(size_bytes, np.uint8)
        tensor = torch.from_numpy(memory)
        found.append((tensor.data_ptr(), weakref.ref(memory)))
        return tensor

    monkeypatch.setattr(pinned, "_page_locked", page_locked)
    return found


@pytest.fixture
def data(tmp_path):
    return f"file://{write_files(tmp_path / 'data')}/*.hdf5"


def test_frames_are_views_of_the_tensor_that_pytorch_gave(given, data):
    dataset = BatchDataset(data, PLAN, pin_memory=True, prefetch=1)
    batch = next(iter(dataset))
    storages = [address for address, _ in given]
    assert batch["frames"].untyped_storage().data_ptr() in storages
    # PyTorch knows a copy by its storage, which slices have in common.
    assert batch["frames"][:, 1, 2].untyped_storage().data_ptr() in storages


def test_frames_in_pinned_memory_are_those_of_ordinary_memory(given, data):
    ordinary = iter(BatchDataset(data, PLAN, pin_memory=False))
    locked = iter(BatchDataset(data, PLAN, pin_memory=True))
    for _ in range(6):
        assert torch.equal(next(ordinary)["frames"], next(locked)["frames"])
    assert len(given) >= 6


def test_memory_goes_back_to_its_giver_when_the_last_view_is_gone(given):
    buffers = _buffers(pinned.pinned_allocator(wanted=True))
    frames = buffers.take((2, 3))
    view = pinned.as_tensor(frames)[1:]
    del frames
    gc.collect()
    ((_, memory),) = given
    assert memory() is not None
    view[:] = 7
    del view
    gc.collect()
    assert memory() is None
    assert buffers.idle == 0


def test_windows_and_other_dtypes_become_tensors_over_the_same_memory():
    for values in (np.arange(6, dtype=np.float32), np.zeros((2, 2), np.uint8)):
        tensor = pinned.as_tensor(values)
        assert tensor.data_ptr() == values.__array_interface__["data"][0]
        assert tensor.shape == values.shape


def test_without_a_gpu_memory_is_ordinary_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pinned.pinned_allocator() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pinned.pinned_allocator() is not None
    assert pinned.pinned_allocator(wanted=False) is None


def test_workers_of_a_loader_do_not_touch_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pinned, "get_worker_info", object)
    assert pinned.pinned_allocator() is None
