"""Checkpoints as their users see them: save, load, list, tag, delete; embedded or remote."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Self

from penstock.backends import load_backend
from penstock.checkpoints import (
    LATEST,
    CheckpointInfo,
    RunInfo,
    UploadRequest,
    check_run,
    check_step,
    check_tag,
)
from penstock.client.channel import RETRY_S
from penstock.client.checkpoint.operations import CheckpointStore
from penstock.client.checkpoint.stores import EmbeddedStore, RemoteStore
from penstock.client.checkpoint.tokens import PROCESS_TOKENS, WriterTokens
from penstock.client.checkpoint_files.load import load_file
from penstock.container import Base, BaseRef, Profile, Reader, Written, write
from penstock.disk import full_disk_named
from penstock.errors import Corrupt, InvalidInput, NotFound
from penstock.failpoints import failpoint
from penstock.retention import Collected, RetentionPolicy
from penstock.targets import Target

__all__ = [
    "PROCESS_TOKENS",
    "CheckpointClient",
    "WriterTokens",
    "load_checkpoint",
    "open_checkpoints",
    "resolve_target",
]


class CheckpointClient:
    """Saves and loads checkpoints of one store. Safe to use from several threads.

    Args:
        target: Where the store is; ``str(target)`` names it for fencing.
        store: How it is reached.
        counts: Counts retries and resumed transfers.
        tokens: Of this writer; those of the process if None.

    Attributes:
        target: Where the store is.
        counts: ``retries``, ``uploads_resumed``, ``uploads_resent``, ``downloads_resumed``.
    """

    def __init__(
        self,
        target: Target,
        store: CheckpointStore,
        counts: Counter[str],
        tokens: WriterTokens | None = None,
    ) -> None:
        self.counts = counts
        self.target, self._store = target, store
        self._tokens = tokens or PROCESS_TOKENS

    def save(
        self,
        state: Any,
        run: str,
        step: int,
        *,
        tags: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        compress: Profile = "small",
    ) -> CheckpointInfo:
        """Save a state; when this returns it is verified, durable and listed.

        Saving the same content again is no error and moves the tags to it.

        Args:
            state: Dicts, lists, numbers, strings, tensors, arrays: see ``penstock.container``.
            run: Name of the run: letters, digits, ``.``, ``_``, ``-``.
            step: Step of the run.
            tags: Names that will point at this step, e.g. ``("best",)``.
            metrics: Numbers kept beside it, e.g. ``{"val_loss": 0.12}``.
            compress: ``small``, ``fast``, ``policy-bf16`` (loses precision) or ``none``; ``delta``
                is ``small`` here, for only ``AsyncCheckpointSaver`` knows the base.

        Raises:
            InvalidInput: The state holds a type that cannot be kept (named with its path), or a
                name is not valid.
            AlreadyExists: The step exists with other content.
            Conflict: A newer writer has taken over the run.
            LimitExceeded: Too large, or the disk of the store or of temporary files is full.
            Unavailable: The service stayed away.
        """
        check_run(run)
        check_step(step)
        for tag in tags:
            check_tag(tag)
        # A file rather than memory: what is sent must be there until the store has it all.
        with tempfile.TemporaryFile(prefix="penstock-", suffix=".pstk") as file:
            with full_disk_named(f"writing {run}/{step} to {tempfile.gettempdir()} to send it"):
                written = self.write_state(state, file, run, step, compress=compress)
            return self.send_file(file, written, run, step, tags=tags, metrics=metrics)

    def write_state(
        self,
        state: Any,
        file: BinaryIO,
        run: str,
        step: int,
        *,
        compress: Profile = "small",
        base: Base | None = None,
    ) -> Written:
        """Write a state as a checkpoint of a run into a file, to be sent by ``send_file``.

        Raises:
            InvalidInput, LimitExceeded, Unsupported, OSError: As ``penstock.container.write``.
        """
        meta = {"writer": f"penstock {version('penstock')}", "run": run, "step": str(step)}
        written = write(state, file, compress=compress, meta=meta, base=base)
        file.flush()
        return written

    def send_file(
        self,
        file: BinaryIO,
        written: Written,
        run: str,
        step: int,
        *,
        tags: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> CheckpointInfo:
        """Store what ``write_state`` wrote; when this returns it is verified, durable and listed.

        Raises:
            AlreadyExists, Conflict, LimitExceeded, Unavailable: As ``save``.
            DataFault: The base of the content is not stored (any more): ``BASE_MISSING``.
        """
        request = UploadRequest(
            run=run,
            step=step,
            digest=written.digest,
            raw_size_bytes=written.raw_size_bytes,
            fencing_token=0,
            tags=tuple(tags),
            metrics=dict(metrics or {}),
        )
        failpoint("client.before_begin")
        info = self._store.upload(
            request, file, lambda begin: self._tokens.begin(str(self.target), run, begin)
        )
        failpoint("client.committed")
        return info

    def load(
        self,
        run: str,
        which: int | str = LATEST,
        *,
        only: Sequence[Any] = (),
        map_location: str = "cpu",
        as_numpy: bool = False,
    ) -> Any:
        """Load a state, every byte checked.

        Args:
            run: Name of the run.
            which: A step, a tag, or ``latest`` for the newest intact step.
            only: Keys that lead to the part wanted, e.g. ``("policy",)``.
            map_location: Where torch tensors go.
            as_numpy: Give NumPy arrays for torch tensors; torch is then not needed.

        Raises:
            NotFound: No such run, step or tag.
            Corrupt: It is damaged.
            Unavailable: The service stayed away.
        """
        with self.open_reader(run, which, in_parts=bool(only)) as reader:
            return reader.load(only=only, device=map_location, as_numpy=as_numpy)

    def open_reader(self, run: str, which: int | str = LATEST, *, in_parts: bool = False) -> Reader:
        """Open a checkpoint, and with it the one that it refers to.

        Args:
            run: Name of the run.
            which: A step, a tag, or ``latest``.
            in_parts: Fetch only what is read, each chunk checked by itself; else a service sends
                all of it first, checked as a whole.

        Raises:
            NotFound, Corrupt, Unavailable: As ``load``.
        """
        return self._open_reader(self.get(run, which), in_parts=in_parts)

    def _open_reader(self, info: CheckpointInfo, *, in_parts: bool) -> Reader:
        def open_base(wanted: BaseRef) -> Reader:
            base = self.get(info.run, wanted.step)
            if base.digest != wanted.digest:
                raise Corrupt(
                    f"{info.run}/{info.step} refers to step {wanted.step} with the digest "
                    f"{wanted.digest}, there is {base.digest}: use another step",
                    reason="BASE_MISSING",
                )
            return self._open_reader(base, in_parts=in_parts)

        store = self._store
        file = store.open_parts(info) if in_parts else store.open_content(info)
        return Reader(file, open_base=open_base, owns_file=True)

    def open(self, run: str, which: int | str = LATEST) -> BinaryIO:
        """Open the ``.pstk`` file of a checkpoint for reading; the caller closes it.

        Raises:
            NotFound, Corrupt, Unavailable: As ``load``.
        """
        return self._store.open_content(self.get(run, which))

    def get(self, run: str, which: int | str = LATEST) -> CheckpointInfo:
        """Look up a step, a tag, or the newest intact step.

        Raises:
            NotFound: There is none.
            Corrupt: What was asked for is damaged.
        """
        return self._store.get(check_run(run), which)

    def latest(self, run: str) -> CheckpointInfo | None:
        """The newest intact step, or None if the run has none (or does not exist)."""
        try:
            return self.get(run, LATEST)
        except NotFound:
            return None

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run by ascending step.

        Raises:
            NotFound: There is no such run.
        """
        return self._store.list(check_run(run))

    def runs(self) -> list[RunInfo]:
        """All runs by name."""
        return self._store.runs()

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint and the tags on it.

        Raises:
            NotFound: There is none.
            DataFault: It is pinned, or others refer to it; names them.
        """
        self._store.delete(check_run(run), check_step(step))

    def pin(self, run: str, which: int | str = LATEST) -> CheckpointInfo:
        """Keep a checkpoint, whatever retention says, until ``unpin``; nor can it be deleted.

        Raises:
            NotFound: There is none.
        """
        return self._store.pin(check_run(run), which, pinned=True)

    def unpin(self, run: str, which: int | str) -> CheckpointInfo:
        """Let a pinned checkpoint go; one that is not pinned is no error.

        Raises:
            NotFound: There is none.
        """
        return self._store.pin(check_run(run), which, pinned=False)

    def collect(
        self,
        run: str | None = None,
        policy: RetentionPolicy | None = None,
        *,
        dry_run: bool = False,
    ) -> Collected:
        """Remove what a retention policy does not keep, or say what that would be.

        Args:
            run: Name of the run; None for all runs of the store.
            policy: The rules; None for those of the service. A store of this process has none.
            dry_run: Remove nothing.

        Raises:
            NotFound: No such run.
            InvalidInput: The policy keeps nothing, or there is none.
        """
        return self._store.collect(None if run is None else check_run(run), policy, dry_run=dry_run)

    def verify(self, run: str, which: int | str = LATEST) -> tuple[CheckpointInfo, int]:
        """Check every byte where it is stored; gives the number of chunks too.

        Raises:
            NotFound: There is none.
            Corrupt: It is damaged; names the place.
        """
        return self._store.verify(check_run(run), which)

    def take_over(self, run: str) -> None:
        """Become the newest writer of a run with the next save; the others are refused then."""
        self._tokens.forget(str(self.target), run)

    def close(self) -> None:
        """Close the connection or the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoints(
    target: str | Target, *, retry_s: float = RETRY_S, tokens: WriterTokens | None = None
) -> CheckpointClient:
    """Open a store: ``file:///directory`` in this process, or ``grpc://host:50053``.

    Args:
        target: Where it is; a directory is created if it is missing.
        retry_s: How long to wait for a service that is away.
        tokens: Of this writer; those of the process if None.

    Raises:
        InvalidInput: The target is not valid.
        Unsupported: An embedded store needs ``pip install 'penstock[checkpointer]'``.
    """
    target = resolve_target(target)
    counts: Counter[str] = Counter()
    if target.scheme == "grpc":
        return CheckpointClient(target, RemoteStore(target, retry_s, counts), counts, tokens)
    store = EmbeddedStore(load_backend("checkpointer", target))
    return CheckpointClient(target, store, counts, tokens)


def resolve_target(target: str | Target) -> Target:
    """The target of a store, the same however its directory is written.

    Raises:
        InvalidInput: It is not valid.
    """
    target = Target.parse(target) if isinstance(target, str) else target
    if target.scheme == "file" and len(target.locations) == 1:
        return Target("file", (str(Path(target.locations[0]).absolute()),), target.options)
    return target


def load_checkpoint(
    path_or_target: str | Path,
    run: str | None = None,
    step: int | str = LATEST,
    *,
    map_location: str = "cpu",
    only: Sequence[Any] = (),
) -> Any:
    """Load a checkpoint from wherever it is.

    With ``run``, ``path_or_target`` is a store (``grpc://host:50053``, ``file:///directory``).
    Without, it is a file; its content says what it is, not its name: ``.pstk``, ``.pt`` (tensors
    and plain values only, as ``torch.load(weights_only=True)``), either of them inside an LZ4
    frame, or safetensors.

    Args:
        path_or_target: A store or a file.
        run: Name of the run in a store.
        step: A step, a tag or ``latest``.
        map_location: Where torch tensors go.
        only: Keys that lead to the part wanted.

    Raises:
        InvalidInput: A store without ``run``.
        NotFound: No such file, run, step or tag.
        Corrupt: It is damaged.
        DataFault: It is no checkpoint that can be read, or holds pickled objects.
    """
    if run is not None:
        with open_checkpoints(str(path_or_target)) as client:
            return client.load(run, step, only=only, map_location=map_location)
    text = str(path_or_target)
    path = Path(text.removeprefix("file://"))
    if text.startswith("grpc://") or path.is_dir():
        raise InvalidInput(f"{text} is a store: give the run to load from", field="run")
    return load_file(path, map_location=map_location, only=only)
