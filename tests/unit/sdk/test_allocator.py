"""Heaps that a process shares, in processes of their own: the allocator is set up once."""

import subprocess
import sys

import pytest

_COUNT_HEAPS = """
import ctypes, sys, tempfile, threading

from penstock.allocator import keep_message_memory, share_heap

{set_up}
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.fdopen.restype = ctypes.c_void_p
library.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
together = threading.Barrier(12)


def allocate():
    library.malloc(1000)
    together.wait()


threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.TemporaryFile() as told:
    stream = library.fdopen(told.fileno(), b"w")
    library.malloc_info(0, stream)
    library.fflush(ctypes.c_void_p(stream))
    told.seek(0)
    print(told.read().count(b"<heap nr="))
"""


def _heaps(set_up, **environment):
    script = _COUNT_HEAPS.format(set_up=set_up)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("set_up", "most"),
    [("keep_message_memory(heaps=3)", 3), ("keep_message_memory(heaps=1)", 1), ("share_heap()", 1)],
)
def test_threads_share_as_many_heaps_as_they_are_told(set_up, most):
    assert _heaps(set_up) <= most < _heaps("")


def test_an_allocator_that_is_not_to_be_touched_stays_as_it_is():
    assert _heaps("keep_message_memory(heaps=1)", PENSTOCK_MALLOPT="0") == _heaps("")


_MAP_BLOCKS = """
import ctypes

from penstock.allocator import heap_given_back, hold_in_heap, share_heap

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
# Ten integers; the fourth is the number of blocks that are mapped by themselves.
class Info(ctypes.Structure):
    _fields_ = [("all", ctypes.c_int * 10)]


library.mallinfo.restype = Info


def is_mapped():
    before = library.mallinfo().all[3]
    library.malloc(900_000)
    return library.mallinfo().all[3] > before


{set_up}
told = [is_mapped()]
with heap_given_back():
    hold_in_heap(900_000)
    hold_in_heap(1000)
    told.append(is_mapped())
print(*told, is_mapped())
"""


@pytest.mark.parametrize(
    ("set_up", "mapped"),
    [("share_heap()", "True False True"), ("", "True True True")],
    ids=["one heap", "untouched"],
)
def test_images_are_in_the_heap_while_they_stream_where_there_is_one(set_up, mapped):
    script = _MAP_BLOCKS.format(set_up=set_up)
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == mapped
