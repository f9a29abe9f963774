"""Memory that is lent comes back when nobody can see it any more, and not before."""

import gc

import numpy as np

from penstock.client.sampler.buffers import FrameBuffers


def address(values):
    return values.__array_interface__["data"][0]


def test_memory_of_a_batch_that_is_gone_is_used_again():
    buffers = FrameBuffers()
    first = buffers.take((4, 5))
    place = address(first)
    del first
    assert buffers.idle == 1
    second = buffers.take((5, 4))
    assert address(second) == place
    assert (second.shape, second.dtype, second.flags.writeable) == ((5, 4), np.uint8, True)


def test_memory_that_a_view_still_shows_is_not_used_again():
    buffers = FrameBuffers()
    first = buffers.take((4, 5))
    first[:] = 7
    view = first[2:, ::2].reshape(-1)[1:4].T
    bare = memoryview(first[3])
    del first
    gc.collect()
    for _ in range(3):
        buffers.take((4, 5))[:] = 9
    assert set(view.tolist()) == {7}
    del view
    buffers.take((4, 5))[:] = 9
    assert bare.tolist() == [7] * 5
    del bare
    assert buffers.idle == 2


def test_memory_that_a_tensor_still_shows_is_not_used_again():
    import torch

    buffers = FrameBuffers()
    frames = buffers.take((6,))
    frames[:] = 3
    tensor = torch.from_numpy(frames)[2:]
    del frames
    gc.collect()
    buffers.take((6,))[:] = 9
    assert tensor.tolist() == [3] * 4
    del tensor
    assert buffers.idle == 2


def test_idle_memory_is_bounded_and_of_the_size_in_use():
    buffers = FrameBuffers(max_idle=2)
    held = [buffers.take((10,)) for _ in range(5)]
    held.clear()
    assert buffers.idle == 2
    other = buffers.take((20,))
    assert buffers.idle == 0
    assert other.nbytes == 20


def test_memory_starts_at_a_cache_line():
    buffers = FrameBuffers()
    held = [buffers.take((size,)) for size in (1, 63, 1000, 5_000_000)]
    assert [address(frames) % 64 for frames in held] == [0, 0, 0, 0]
    assert [frames.nbytes for frames in held] == [1, 63, 1000, 5_000_000]


def test_memory_comes_from_the_allocator_that_was_given():
    asked = []

    def allocate(size_bytes):
        asked.append(size_bytes)
        return np.full(size_bytes, 5, np.uint8)

    buffers = FrameBuffers(allocate)
    frames = buffers.take((2, 3))
    assert (frames == 5).all()
    del frames
    buffers.take((3, 2))
    assert asked == [6]


def test_a_batch_without_cameras_needs_no_memory():
    assert FrameBuffers().take((4, 2, 0, 8, 8, 3)).shape == (4, 2, 0, 8, 8, 3)
