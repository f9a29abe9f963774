"""What an embedded service offers, and how one is found by its name.

A backend is the pure part of a service. The service puts it on a wire; an embedded target calls it
in this process. Both run the same code, so both give the same bytes.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import Unsupported
from penstock.observations import Observations
from penstock.targets import Target

if TYPE_CHECKING:
    from penstock.checkpoints import CheckpointInfo, RunInfo, UploadRequest, UploadState
    from penstock.chunks import Digest
    from penstock.container import Verified
    from penstock.retention import Collected, RetentionPolicy
    from penstock.streams import (
        Opened,
        PushRequest,
        RolloutInfo,
        StreamSettings,
        StreamState,
        Which,
    )

__all__ = [
    "SYNC_BYTES",
    "CheckpointBackend",
    "ReplicaBackend",
    "RolloutBackend",
    "SamplerBackend",
    "load_backend",
]

SYNC_BYTES = 8 << 20
"""An upload is synced whenever so much was added to it: no more is dirty, or unacknowledged."""


class SamplerBackend(Protocol):
    """Serves transitions of one dataset; safe to call from several threads."""

    def info(self) -> DatasetInfo:
        """Describe the dataset."""
        ...

    def episodes(self) -> EpisodeTable:
        """All episodes."""
        ...

    def weights(self, column: str) -> NDArray[np.float32]:
        """One weight per transition, ``(transitions,) float32``, finite and not negative.

        Raises:
            NotFound: There is no such weight column; names those there are.
        """
        ...

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fill ``out`` with the transitions ``ids``, row by row in that order.

        Args:
            ids: ``(n,) int64``, each from 0 to ``info().transitions - 1``.
            spec: Size of the images.
            out: A batch of ``n`` rows from :meth:`Batch.allocate`.

        Raises:
            InvalidInput: An id is out of range.
            DataFault: A file cannot be read any more; the message names it.
        """
        ...

    def close(self) -> None:
        """Release files."""
        ...


class ReplicaBackend(SamplerBackend, Protocol):
    """What a replica puts on the wire, besides; safe to call from several threads."""

    def read_columns(self, ids: NDArray[np.int64], out: Batch) -> None:
        """Fill everything of ``out`` but its frames.

        Raises:
            InvalidInput: An id is out of range.
        """
        ...

    def read_observations(
        self, ids: NDArray[np.int64], spec: FrameSpec, accepted: tuple[str, ...]
    ) -> Observations:
        """The frames of ``ids``, every observation once, encoded.

        From the frame cache as they lie there when its codec is accepted; else read, resized and
        encoded now, with the smallest of ``accepted`` that is worth its decoding.

        Args:
            ids: ``(n,) int64``; a server asks for about a message's worth at a time.
            spec: Size of the images.
            accepted: Codecs that the reader can decode.

        Raises:
            InvalidInput: An id is out of range.
            DataFault: A file cannot be read any more; the message names it.
        """
        ...

    def cached_observations(
        self, ids: NDArray[np.int64], spec: FrameSpec, accepted: tuple[str, ...]
    ) -> Observations | None:
        """The same where all of it is cached, by one codec that is accepted; else None.

        Nothing but sizes is in memory: the data is read when its turn comes, and raises Corrupt
        when it turns out to be damaged; asked again, :meth:`read_observations` gives it from its
        source.

        Raises:
            InvalidInput: An id is out of range.
        """
        ...

    def cached_frames(self, file_id: str, spec: FrameSpec) -> int | None:
        """A descriptor of the cached frames of a file, which the caller closes; None without.

        Raises:
            NotFound: No such file is served.
        """
        ...


class CheckpointBackend(Protocol):
    """Keeps checkpoints of one store; safe to call from several threads.

    What ``commit`` has answered is on disk, verified, listed and loadable.
    """

    def begin_upload(self, request: UploadRequest) -> UploadState:
        """Open an upload, or take up one of the same run, step and digest.

        Raises:
            InvalidInput: A name, the size or the digest is not valid.
            AlreadyExists: The step has other content.
            Conflict: A newer writer has taken over the run.
            LimitExceeded: Too large, the disk has no room, or a quota is used up.
        """
        ...

    def append(self, upload_id: str, offset_bytes: int, data: bytes) -> int:
        """Add bytes without a gap, at most 1 MiB; returns all that is received.

        They may be lost with the machine until ``sync``; callers sync every ``SYNC_BYTES``.

        Raises:
            NotFound: No such upload: begin again.
            InvalidInput: The offset leaves a gap, or the content is a pickle.
            Conflict: A newer writer has taken over the run.
            LimitExceeded: The disk is full.
        """
        ...

    def sync(self, upload_id: str) -> int:
        """Make all that is received durable; returns how many bytes that are.

        Raises:
            NotFound: No such upload: begin again.
            LimitExceeded: The disk is full.
        """
        ...

    def commit(self, upload_id: str) -> CheckpointInfo:
        """Verify the whole, make it durable, list it, answer; asked again it answers the same.

        Raises:
            NotFound: No such upload: begin again.
            DataFault: Bytes are missing, or the checkpoint that it refers to is.
            Corrupt: The content does not match its digest or is no intact container.
            Conflict: A newer writer has taken over the run.
            LimitExceeded: The disk is full.
        """
        ...

    def abort(self, upload_id: str) -> None:
        """Give up an upload; unknown ones are no error."""
        ...

    def get(self, run: str, which: int | str = "latest") -> CheckpointInfo:
        """Look up a step, a tag, or the newest intact step.

        Raises:
            NotFound: There is none.
            Corrupt: What was asked for is damaged.
        """
        ...

    def open_content(self, run: str, step: int) -> BinaryIO:
        """Open the file of a checkpoint, seekable.

        Raises:
            NotFound: There is none.
        """
        ...

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run by ascending step.

        Raises:
            NotFound: There is no such run.
        """
        ...

    def runs(self) -> list[RunInfo]:
        """All runs by name."""
        ...

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint and the tags on it.

        Raises:
            NotFound: There is none.
            DataFault: It is pinned, or others refer to it; names them.
        """
        ...

    def pin(self, run: str, which: int | str, *, pinned: bool) -> CheckpointInfo:
        """Keep a checkpoint until it is let go, or let it go.

        Raises:
            NotFound: There is none.
        """
        ...

    def collect(
        self, run: str | None, policy: RetentionPolicy | None, *, dry_run: bool
    ) -> Collected:
        """Remove what a policy does not keep, or say what that would be.

        Args:
            run: Name of a run, or None for all.
            policy: None for the store's own.
            dry_run: Remove nothing.

        Raises:
            NotFound: No such run.
            InvalidInput: The policy keeps nothing, or there is none.
        """
        ...

    def verify(self, run: str, which: int | str = "latest") -> tuple[CheckpointInfo, Verified]:
        """Read a checkpoint again and check every byte.

        Raises:
            NotFound: There is none.
            Corrupt: It is damaged; names the place.
        """
        ...

    def close(self) -> None:
        """Release files."""
        ...


class RolloutBackend(Protocol):
    """Keeps streams of rollouts; safe to call from several threads.

    What ``commit`` has answered is on disk, verified and listed.
    """

    def configure(self, stream: str, settings: StreamSettings) -> StreamState:
        """Set what a stream holds; creates it.

        Raises:
            InvalidInput: The name is not valid.
        """
        ...

    def stream(self, stream: str) -> StreamState:
        """Describe a stream.

        Raises:
            NotFound: There is none.
        """
        ...

    def streams(self) -> list[StreamState]:
        """All streams by name."""
        ...

    def begin(self, request: PushRequest, offset_bytes: int) -> None:
        """Open a push, or take one up where ``received`` said.

        Raises:
            InvalidInput: A name or number is not valid.
            NotFound: ``offset_bytes`` is not 0 and nothing was received: ``PUSH_UNKNOWN``.
            LimitExceeded: The queue is full and the stream refuses (``QUEUE_FULL``), or the disk.
        """
        ...

    def received(self, push_id: str) -> tuple[int, RolloutInfo | None]:
        """How many bytes of a push have arrived, and what it became once it is stored."""
        ...

    def append(self, push_id: str, offset_bytes: int, data: bytes | memoryview) -> int:
        """Add bytes without a gap, at most 1 MiB; returns all that is received.

        Bytes that arrived before are taken again.

        Raises:
            NotFound: No such push.
            InvalidInput: The offset leaves a gap.
            LimitExceeded: The disk is full, or the rollout larger than is taken.
        """
        ...

    def commit(self, push_id: str, digest: Digest) -> tuple[RolloutInfo, bool]:
        """Verify, make durable, list, answer; asked again it answers the same.

        Returns:
            What it became, and whether the same content was stored before.

        Raises:
            NotFound: No such push.
            Corrupt: The content does not match its digest or is no intact rollout file.
            AlreadyExists: The iteration of this producer has other content.
            LimitExceeded: The queue became full, or the disk is.
        """
        ...

    def abort(self, push_id: str) -> None:
        """Give up a push; unknown ones are no error."""
        ...

    def find(self, stream: str, which: Which, wait_s: float = 0.0) -> Opened:
        """Find a rollout, and take it where ``which`` says so.

        Args:
            stream: Name of the stream; it need not exist yet when there is time to wait.
            which: Which one.
            wait_s: How long to wait until there is one.

        Raises:
            NotFound: There is none (and no time to wait was given, or it can never come).
            TimedOut: None came in ``wait_s``: ``NO_ROLLOUT``.
        """
        ...

    def settle(
        self, stream: str, consumer: str, sequence: int, *, done: bool, member: str = ""
    ) -> None:
        """A consumer is through with a rollout, or its member gives it back.

        Giving back what another member has taken meanwhile changes nothing.

        Raises:
            InvalidInput: A name is not valid.
            NotFound: No such stream or consumer.
        """
        ...

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Forget a consumer, and what it took: nothing waits for it any more.

        Raises:
            NotFound: No such stream or consumer.
        """
        ...

    def open_content(self, stream: str, sequence: int) -> BinaryIO:
        """Open the file of a rollout, seekable; it stays readable if it is deleted meanwhile.

        Raises:
            NotFound: There is none.
        """
        ...

    def list(self, stream: str, after_sequence: int = 0, limit: int = 1000) -> list[RolloutInfo]:
        """Rollouts of a stream by ascending sequence.

        Raises:
            NotFound: There is no such stream.
        """
        ...

    def wait(self, stream: str, after_sequence: int, timeout_s: float) -> bool:
        """Wait until a stream has a rollout above a sequence; returns whether it has."""
        ...

    def delete(self, stream: str, sequence: int) -> None:
        """Delete one rollout; its iteration may be pushed anew, with any content.

        Raises:
            NotFound: There is none.
        """
        ...

    def close(self) -> None:
        """Release files; calls that wait return."""
        ...


def load_backend(service: str, target: Target) -> Any:
    """Open the embedded backend of ``service`` for a ``file`` target.

    Raises:
        Unsupported: The service's extra is not installed; the message says how to get it.
    """
    hint = f"install it with: pip install 'penstock[{service}]'"
    found = tuple(entry_points(group="penstock.backends", name=service))
    if not found:
        raise Unsupported(f"{target}: no embedded {service} is installed: {hint}")
    try:
        open_backend = found[0].load()
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"{target}: the embedded {service} needs the module {error.name!r}: {hint}"
        ) from error
    return open_backend(target)
