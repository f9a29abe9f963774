"""What every process of this benchmark shares: requests as lines of JSON, the data, the clock.

A process is a *collector* or a *trainer* or times codecs; which, it learns from what it is asked.
It keeps the rollout in memory in the form that its peer works on, and stays warm between requests.

Runs in the environments of peers: needs NumPy only.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Codec", "Leaves", "Peer", "digest", "load", "save", "serve"]

Leaves = dict[str, NDArray[Any]]
"""Arrays ``[env, time, ...]`` by path."""


class Codec(Protocol):
    """Bytes of a rollout in memory, and back."""

    def encode(self, native: Any) -> Any:
        """Encode what :meth:`Peer.native` gave."""
        ...

    def size_bytes(self, encoded: Any) -> int:
        """Bytes of it."""
        ...

    def decode(self, encoded: Any) -> Any:
        """What was encoded."""
        ...


class Peer:
    """A library and its ways to keep and to move rollouts.

    Attributes:
        codecs: By name.
    """

    codecs: Mapping[str, Codec] = {}

    def native(self, leaves: Leaves) -> Any:
        """A rollout in the form that a user of the library has in memory; not timed."""
        return leaves

    def leaves(self, native: Any) -> Leaves:
        """The same as arrays; not timed."""
        return native

    def listen(self, way: str, address: str) -> int:
        """In a trainer: be ready for what comes by a way; returns the port."""
        raise NotImplementedError

    def receive(self, way: str) -> Any:
        """In a trainer: wait for a rollout and decode it."""
        raise NotImplementedError

    def connect(self, way: str, address: str, port: int) -> None:
        """In a collector: be ready to send by a way."""
        raise NotImplementedError

    def send(self, way: str, native: Any) -> None:
        """In a collector: encode a rollout and send it; may return before it has arrived."""
        raise NotImplementedError

    def requests(self) -> Mapping[str, Callable[..., dict[str, Any]]]:
        """What else it can be asked."""
        return {}


def save(folder: Path, leaves: Leaves) -> None:
    """Write arrays for :func:`load`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, array in leaves.items():
        np.save(folder / f"{path.replace('/', '+')}.npy", array)


def load(folder: Path) -> Leaves:
    """Arrays by path, in memory."""
    return {path.stem.replace("+", "/"): np.load(path) for path in sorted(folder.glob("*.npy"))}


def digest(leaves: Leaves) -> int:
    """CRC-32 of all arrays, by path."""
    found = 0
    for path in sorted(leaves):
        found = zlib.crc32(np.ascontiguousarray(leaves[path]).reshape(-1).view(np.uint8), found)
    return found


def serve(peer: Peer) -> None:
    """Answer requests until there are no more; a request that fails is answered by its error."""
    # What libraries print shall not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    handlers = _handlers(peer, Path(sys.argv[1]), say)
    say(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(**handlers[request.pop("do")](**request))
        except Exception as error:  # noqa: BLE001 - a peer's errors are its own; all are told
            say(error=f"{type(error).__name__}: {error}"[:600])
        gc.collect()


def _handlers(
    peer: Peer, folder: Path, say: Callable[..., None]
) -> dict[str, Callable[..., dict[str, Any]]]:
    native = peer.native(load(folder))

    def codec(way: str) -> dict[str, Any]:
        found = peer.codecs[way]
        begun_s = time.process_time()
        encoded = found.encode(native)
        encoded_s = time.process_time()
        size_bytes = found.size_bytes(encoded)
        decoding_s = time.process_time()
        decoded = found.decode(encoded)
        decoded_s = time.process_time()
        return {
            "size_bytes": size_bytes,
            "in_s": encoded_s - begun_s,
            "out_s": decoded_s - decoding_s,
            "digest": digest(peer.leaves(decoded)),
        }

    def send(way: str) -> dict[str, Any]:
        cpu_s, begun_s = time.process_time(), time.monotonic()
        peer.send(way, native)
        return {
            "begun_s": begun_s,
            "sent_s": time.monotonic(),
            "cpu_s": time.process_time() - cpu_s,
        }

    def receive(way: str) -> dict[str, Any]:
        cpu_s = time.process_time()
        say(ready=True)
        received = peer.receive(way)
        done_s, cpu_s = time.monotonic(), time.process_time() - cpu_s
        return {"done_s": done_s, "cpu_s": cpu_s, "digest": digest(peer.leaves(received))}

    def listen(way: str, address: str) -> dict[str, Any]:
        return {"port": peer.listen(way, address)}

    def connect(way: str, address: str, port: int) -> dict[str, Any]:
        peer.connect(way, address, port)
        return {}

    return {
        "codec": codec,
        "send": send,
        "receive": receive,
        "listen": listen,
        "connect": connect,
        **peer.requests(),
    }
