"""Rollouts by iteration, in a directory or on a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from penstock.client.rollout import RolloutClient, open_rollouts
from penstock.cores import usable_cores
from penstock.errors import InvalidInput, NotFound
from penstock.rollouts.advising import Advisor
from penstock.rollouts.encodings import EncodingChoice, encoding_of
from penstock.rollouts.selecting import Steps, select
from penstock.rollouts.tensors import as_torch, leaves_of, nested
from penstock.streams import DEFAULT_PRODUCER, RolloutInfo, Which
from penstock.targets import Target

__all__ = ["RolloutStorage"]

_MOST_THREADS = 4


class RolloutStorage:
    """Saves rollouts by iteration and loads them, whole or in parts; nothing is pickled.

    Args:
        save_dir: A directory (``rollouts``, ``file:///rollouts``), a server
            (``grpc://host:50053``), or a client that is open.
        compression_level: None or 0 is LZ4, a negative one LZ4 that is faster and larger, 1 to 19 a
            level of zstd.
        stream: Name of the stream that the rollouts go to.
        save_every: Save the iterations that this divides, pass over the others.
        encoding: In place of ``compression_level``: an ``Encoding``, ``lz4``, ``zstd``, ``raw``, or
            ``auto`` for what is fastest (see ``Advisor``); for a small store name a codec.
        producer: Who collects; each producer has iterations of its own.
        threads: That encode and decode; None for the cores there are, 4 at most.
        wait_s: How long to wait while the stream is full; None for ever.

    Attributes:
        counts: ``saved``, ``passed_over``, ``loaded``.

    Raises:
        InvalidInput: An argument is not valid.
    """

    def __init__(
        self,
        save_dir: str | Path | Target | RolloutClient,
        compression_level: int | None = None,
        *,
        stream: str = "rollouts",
        save_every: int = 1,
        encoding: EncodingChoice | None = None,
        producer: str = DEFAULT_PRODUCER,
        threads: int | None = None,
        wait_s: float | None = None,
    ) -> None:
        if save_every < 1:
            raise InvalidInput(f"save_every={save_every}: expected at least 1", field="save_every")
        self._encoding = encoding_of(encoding, compression_level)
        self._stream, self._producer = stream, producer
        self._save_every, self._wait_s = save_every, wait_s
        self._threads = threads or min(_MOST_THREADS, usable_cores())
        self._owned = not isinstance(save_dir, RolloutClient)
        self._client = (
            save_dir
            if isinstance(save_dir, RolloutClient)
            else open_rollouts(str(save_dir) if isinstance(save_dir, Path) else save_dir)
        )
        self._advisor = (
            Advisor(self._client, threads=self._threads) if self._encoding is None else None
        )
        self.counts: Counter[str] = Counter()

    def save(self, data: Any, iteration: int, policy_version: int = 0) -> RolloutInfo | None:
        """Save a rollout; when this returns it is durable.

        Saving the same content again is no error.

        Args:
            data: Nested dicts of arrays or torch tensors on any device, or a TensorDict, each leaf
                ``[env, time, ...]``.
            iteration: Of the producer.
            policy_version: Version of the policy that acted.

        Returns:
            What is stored; None where ``save_every`` passes the iteration over.

        Raises:
            InvalidInput: The rollout holds what cannot be stored; names its path.
            AlreadyExists: The iteration was saved with other content, and not deleted.
            LimitExceeded: The stream was full for ``wait_s``, or the disk is.
        """
        if iteration % self._save_every:
            self.counts["passed_over"] += 1
            return None
        leaves = leaves_of(data)
        encoding = self._encoding
        if encoding is None and self._advisor is not None:
            encoding = self._advisor.encoding(leaves)
        with nullcontext() if self._advisor is None else self._advisor.watching(self._client):
            info = self._client.push(
                leaves,
                self._stream,
                iteration,
                producer=self._producer,
                policy_version=policy_version,
                encoding=encoding,
                threads=self._threads,
                wait_s=self._wait_s,
            )
        self.counts["saved"] += 1
        return info

    def load(
        self,
        iteration: int,
        device: Any = None,
        *,
        fields: str | Sequence[str] | None = None,
        envs: Iterable[int] | None = None,
        steps: Steps | None = None,
        as_tensordict: bool = False,
    ) -> Any:
        """Load a rollout, or the part of it that is wanted; no more of the file is read.

        Args:
            iteration: Which one.
            device: Where torch tensors go; None for NumPy arrays.
            fields: Paths in the nested rollout (``observation`` or ``observation/lidar``).
            envs: Indices of environments, in the order they are wanted in.
            steps: ``slice(0, 16)``, ``range(16)`` or ``(0, 16)``.
            as_tensordict: Give a TensorDict of batch size ``[envs, steps]``.

        Returns:
            Nested dicts of arrays or tensors ``[env, time, ...]``, or a TensorDict.

        Raises:
            NotFound: It is not stored.
            InvalidInput: An environment, a step or a field is not there.
            Corrupt: It is damaged.
            Unsupported: Torch or tensordict is needed and not installed.
        """
        pulled = self._client.pull(
            self._stream,
            Which(iteration=(self._producer, iteration)),
            selection=select(envs, fields, steps),
            threads=self._threads,
        )
        self.counts["loaded"] += 1
        leaves = pulled.leaves
        if device is None and not as_tensordict:
            return nested(leaves)
        shape = next(iter(leaves.values())).shape
        return nested(
            as_torch(leaves, device), as_tensordict=as_tensordict, batch_size=(shape[0], shape[1])
        )

    def iterations(self) -> list[int]:
        """Iterations that are stored, ascending."""
        return sorted(info.iteration for info in self._infos())

    def latest(self) -> int | None:
        """The iteration that was stored last; None if there is none."""
        newest = max(self._infos(), key=lambda info: info.sequence, default=None)
        return None if newest is None else newest.iteration

    def delete(self, iteration: int) -> None:
        """Delete a rollout; its iteration may be saved anew, with any content.

        Raises:
            NotFound: It is not stored.
        """
        for info in self._infos():
            if info.iteration == iteration:
                self._client.delete(self._stream, info.sequence)
                return
        raise NotFound(
            f"iteration {iteration} of {self._producer!r} is not in stream {self._stream!r}: "
            "iterations() tells what is"
        )

    def close(self) -> None:
        """Close the store, if it was opened here."""
        if self._owned:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infos(self) -> list[RolloutInfo]:
        try:
            found = list(self._client.list(self._stream))
        except NotFound:
            return []
        return [info for info in found if info.producer == self._producer]
