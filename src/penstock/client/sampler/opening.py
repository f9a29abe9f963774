"""From a target to a client."""

from __future__ import annotations

from penstock.allocator import keep_message_memory
from penstock.backends import SamplerBackend, load_backend
from penstock.batch import FrameSpec
from penstock.client.channel import RETRY_S
from penstock.client.sampler.buffers import Allocate, FrameBuffers
from penstock.client.sampler.client import SamplerClient
from penstock.client.sampler.fetching import OnLost
from penstock.client.sampler.remote import RemoteSampler
from penstock.client.sampler.transfer import TransferStatistics
from penstock.targets import Target

__all__ = ["open_sampler"]

_HEAPS = 2
"""Threads come and go with every client. With a heap for each, all of them grow, one by one, to the
most that any thread ever needs: 17 heaps held 150 MB. A batch takes as long with two.
"""


def open_sampler(
    target: str | Target,
    *,
    image_size: tuple[int, int] | None = None,
    retry_s: float = RETRY_S,
    on_lost: OnLost = "wait",
    allocate: Allocate | None = None,
    local: bool = True,
    direct: bool = True,
) -> SamplerClient:
    """Open a dataset.

    On Linux with glibc the allocator of this process is told to keep the memory of messages, which
    halves the time of a batch; ``PENSTOCK_MALLOPT=0`` leaves it as it is.

    Args:
        target: ``file:///data/*.hdf5`` reads here; ``grpc://host:50051`` asks a service, and all
            replicas that the name or a list of names stands for.
        image_size: Height and width in pixels of every image; None leaves them as stored.
        retry_s: Seconds to wait for a service that is away, at the start and later.
        on_lost: What to do when no replica that answers holds a file: ``wait`` for ``retry_s``
            seconds and raise Unavailable then, ``fail`` at once, or ``skip`` its transitions, so
            that batches are shorter (``transfer.skipped_rows`` counts them).
        allocate: Where the memory of frames comes from, page-locked for instance, and where it
            goes back to when nobody looks at a batch any more; None for ordinary memory, which is
            kept for the next batches.
        local: Read frames that a replica on this machine has cached from there, through file
            descriptors that it hands out over a unix socket; the bytes are the same, and only the
            rest comes over the network (``transfer.local_bytes`` counts them). False never does.
        direct: Fetch cached frames from the direct ports of replicas, which send them without a
            copy, where they can be reached; the bytes are the same. False never does.

    Raises:
        Unavailable: Nobody answered in that time.
        DataFault: No file of the dataset can be read.
    """
    parsed = target if isinstance(target, Target) else Target.parse(target)
    spec = FrameSpec(*(image_size or (0, 0)))
    transfer = TransferStatistics()
    if parsed.scheme == "file":
        backend: SamplerBackend = load_backend("sampler", parsed)
    else:
        keep_message_memory(heaps=_HEAPS)
        backend = RemoteSampler(parsed, transfer, retry_s, on_lost, local=local, direct=direct)
    try:
        return SamplerClient(backend, spec, transfer, _buffers(allocate))
    except BaseException:
        backend.close()
        raise


def _buffers(allocate: Allocate | None) -> FrameBuffers:
    # A copy to a GPU may still read memory that nobody looks at any more. Only its giver knows.
    return FrameBuffers() if allocate is None else FrameBuffers(allocate, max_idle=0)
