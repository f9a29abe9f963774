"""What is done with PyTorch: pickle and LZ4 level 9 over a socket, torch.save, TensorDict memmaps.

``pickle_lz4`` is the way of the system that these rollouts come from: a nested dictionary of
tensors, pickled, ``lz4.frame`` at level 9, the whole sent when the whole is compressed. Favours it:
one connection that is kept, nothing is stored. Memmaps lie in shared memory, so no disk is timed;
reading them ends with a copy, for a map alone has read nothing yet.
"""

from __future__ import annotations

import io
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import lz4.frame
import torch
from peer_socket import SocketPeer, receive_exactly
from tensordict import TensorDict
from worker import Leaves, serve

_LEVEL = 9
_SIZE_BYTES = 8


class PickleLz4:
    """Pickle, then LZ4 as hard as the source system tries."""

    def encode(self, native: Any) -> bytes:
        """Compress a pickle."""
        return lz4.frame.compress(pickle.dumps(native), compression_level=_LEVEL)

    def size_bytes(self, encoded: bytes) -> int:
        """Bytes of it."""
        return len(encoded)

    def decode(self, encoded: bytes | bytearray) -> Any:
        """Unpickle what this benchmark has pickled itself."""
        return pickle.loads(lz4.frame.decompress(encoded))  # noqa: S301 - its own bytes


class TorchSave:
    """``torch.save`` into memory."""

    def encode(self, native: Any) -> io.BytesIO:
        """Save."""
        file = io.BytesIO()
        torch.save(native, file)
        return file

    def size_bytes(self, encoded: io.BytesIO) -> int:
        """Bytes of it."""
        return encoded.getbuffer().nbytes

    def decode(self, encoded: io.BytesIO) -> Any:
        """Load."""
        encoded.seek(0)
        return torch.load(encoded, weights_only=True)


class Memmap:
    """``TensorDict.memmap`` into shared memory."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rollouts-memmap-", dir="/dev/shm"))

    def encode(self, native: Any) -> Path:
        """Write the maps."""
        shutil.rmtree(self._folder)
        size = native["action"].shape[:2]
        TensorDict(native, batch_size=size).memmap(str(self._folder), copy_existing=True)
        return self._folder

    def size_bytes(self, encoded: Path) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in encoded.rglob("*") if path.is_file())

    def decode(self, encoded: Path) -> Any:
        """Map them and copy."""
        return TensorDict.load_memmap(str(encoded)).clone().to_dict()

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)


class TorchPeer(SocketPeer):
    """Nested dictionaries of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.memmap = Memmap()
        self.codecs = {
            "pickle_lz4": PickleLz4(),
            "torch_save": TorchSave(),
            "memmap": self.memmap,
        }

    def native(self, leaves: Leaves) -> dict[str, Any]:
        """Nested tensors."""
        nested: dict[str, Any] = {}
        for path, array in leaves.items():
            *folders, name = path.split("/")
            at = nested
            for folder in folders:
                at = at.setdefault(folder, {})
            at[name] = torch.from_numpy(array)
        return nested

    def leaves(self, native: dict[str, Any]) -> Leaves:
        """Arrays by path."""
        found: Leaves = {}
        for name, value in native.items():
            if isinstance(value, dict):
                found |= {f"{name}/{path}": a for path, a in self.leaves(value).items()}
            else:
                found[name] = value.numpy()
        return found

    def send(self, way: str, native: Any) -> None:
        """Compress all, then send all."""
        encoded = self.codecs[way].encode(native)
        self.connection.sendall(len(encoded).to_bytes(_SIZE_BYTES, "little"))
        self.connection.sendall(encoded)

    def receive(self, way: str) -> Any:
        """Receive all, then decompress all."""
        size = bytearray(_SIZE_BYTES)
        receive_exactly(self.connection, memoryview(size))
        encoded = bytearray(int.from_bytes(size, "little"))
        receive_exactly(self.connection, memoryview(encoded))
        return self.codecs[way].decode(encoded)


if __name__ == "__main__":
    torch.set_num_threads(1)
    peer = TorchPeer()
    try:
        serve(peer)
    finally:
        peer.memmap.close()
