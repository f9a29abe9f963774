"""Penstock: its rollout file, and the way through a checkpointer beside the trainer.

Against it, beside the peers: everything is stored and verified before a trainer gets it, every part
has a hash that is checked, and the rollout crosses two sockets, for the checkpointer is a process
of its own. One thread encodes and one decodes, as by default.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from worker import Codec, Leaves, Peer, serve

from penstock import rollouts
from penstock.client.rollout import RolloutClient, open_rollouts
from penstock.rollout_file import Decoder, Encoder, Encoding, Index, read
from penstock.streams import Selection, StreamSettings, Take, Which

ENCODINGS = {
    "penstock_raw": Encoding(codec="raw", rebuild_next=False),
    "penstock_lz4": Encoding(rebuild_next=False),
    "penstock_zstd": Encoding(codec="zstd", rebuild_next=False),
    "penstock_raw_next": Encoding(codec="raw"),
    "penstock_lz4_next": Encoding(),
    "penstock_zstd_next": Encoding(codec="zstd"),
    "penstock_lz4_next_half": Encoding(half=("observation", "next")),
}
_LIKE_DEFAULT = ("penstock_disk", "penstock_beside")
"""Ways that differ by where the store is, or how the trainer opens it."""
_STREAM, _CONSUMER, _MEMBER = "navigation", "bench", "trainer"
_WAIT_S = 60.0


class File:
    """A rollout file in memory."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    def encode(self, native: Leaves) -> tuple[list[Any], Index]:
        """Encode."""
        encoder = Encoder(native, self._encoding)
        return list(encoder), encoder.index

    def size_bytes(self, encoded: tuple[list[Any], Index]) -> int:
        """Bytes of the file."""
        return encoded[1].file_size_bytes

    def decode(self, encoded: tuple[list[Any], Index]) -> Leaves:
        """Decode what comes in pieces, as from a wire."""
        buffers, index = encoded
        decoder = Decoder(index)
        for offset, piece in pieces(buffers, index.ranges(Selection())):
            decoder.feed(offset, piece)
        return decoder.finish()


def pieces(buffers: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> list[tuple[int, Any]]:
    """Parts of a file's consecutive buffers that lie in the ranges, with their offsets."""
    found: list[tuple[int, Any]] = []
    begins = 0
    for buffer in buffers:
        data = memoryview(buffer).cast("B")
        for offset, size in ranges:
            first, last = max(offset, begins), min(offset + size, begins + len(data))
            if first < last:
                found.append((first, data[first - begins : last - begins]))
        begins += len(data)
    return found


class CountingFile(io.BytesIO):
    """A file that counts what is read of it.

    Attributes:
        read_bytes: So far.
    """

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and count."""
        data = super().read(size)
        self.read_bytes += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Read, and count."""
        count = super().readinto(buffer)
        self.read_bytes += count
        return count


class PenstockPeer(Peer):
    """Clients of one or two checkpointers, each kept open."""

    codecs: Mapping[str, Codec] = {name: File(each) for name, each in ENCODINGS.items()}

    def __init__(self) -> None:
        self._encodings = ENCODINGS | dict.fromkeys(_LIKE_DEFAULT, Encoding())
        self._clients: dict[str, RolloutClient] = {}
        self._targets: dict[str, str] = {}
        self._iteration = 0
        self._taken: tuple[RolloutClient, int] | None = None
        self._leaves: Leaves = {}

    def native(self, leaves: Leaves) -> Leaves:
        """The arrays."""
        self._leaves = leaves
        return leaves

    def connect(self, way: str, address: str, port: int) -> None:
        """Open the target of a way, in a collector and in a trainer; a directory has no port."""
        target = f"grpc://{address}:{port}" if port else f"file://{address}"
        if target not in self._clients:
            client = open_rollouts(target)
            client.configure(_STREAM, StreamSettings(capacity=4, keep_last=1))
            self._clients[target] = client
        self._targets[way] = target

    def send(self, way: str, native: Leaves) -> None:
        """Push; returns when it is stored."""
        self._iteration += 1
        self._clients[self._targets[way]].push(
            native, _STREAM, self._iteration, encoding=self._encodings[way]
        )

    def receive(self, way: str) -> Leaves:
        """Settle the one before, take the next one."""
        if self._taken is not None:
            before, sequence = self._taken
            before.settle(_STREAM, _CONSUMER, sequence, _MEMBER)
        client = self._clients[self._targets[way]]
        take = Take(consumer=_CONSUMER, member=_MEMBER)
        pulled = client.pull(_STREAM, Which(take=take), wait_s=_WAIT_S)
        self._taken = client, pulled.info.sequence
        return pulled.leaves

    def requests(self) -> Mapping[str, Callable[..., dict[str, Any]]]:
        """Advice, and parts of a rollout."""
        return {"advise": self._advise, "pull": self._pull, "read": self._read}

    def _advise(self, way: str, like: str) -> dict[str, Any]:
        """Ask how to encode to the target of the way ``like``; that is the way ``way`` then."""
        target = self._targets[way] = self._targets[like]
        advice = rollouts.advise(self._leaves, self._clients[target])
        self._encodings[way] = advice.encoding
        return {
            "plan": advice.plan,
            "encoding": asdict(advice.encoding),
            "bandwidth_bytes_per_s": advice.bandwidth_bytes_per_s,
            "predicted_s": dict(advice.predicted_s),
            "reason": advice.reason,
        }

    def _pull(self, way: str, envs: list[int]) -> dict[str, Any]:
        """Pull some environments of the newest rollout."""
        client = self._clients[self._targets[way]]
        selection = Selection(envs=tuple(envs))
        pulled = client.pull(_STREAM, Which(latest=True), selection=selection)
        for path, array in pulled.leaves.items():
            if not (array == self._leaves[path][envs]).all():
                raise ValueError(f"{path} of {envs} is not what was pushed")
        return {"file_bytes": pulled.info.digest.size_bytes}

    def _read(self, way: str, envs: list[int]) -> dict[str, Any]:
        """Count what is read of a file for some environments."""
        file = CountingFile(b"".join(self.codecs[way].encode(self._leaves)[0]))
        read(file, Selection(envs=tuple(envs)))
        return {"read_bytes": file.read_bytes, "file_bytes": len(file.getbuffer())}


if __name__ == "__main__":
    serve(PenstockPeer())
