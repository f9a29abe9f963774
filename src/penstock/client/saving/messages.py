"""What the saver and its process tell one another: JSON, and handles of buffers beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from penstock import errors
from penstock.checkpoints import CheckpointInfo
from penstock.chunks import Digest
from penstock.container import PlannedStorage
from penstock.container.tensors import TensorEntry
from penstock.errors import Internal, PenstockError

__all__ = [
    "entries_from_json",
    "error_from_json",
    "error_to_json",
    "info_from_json",
    "info_to_json",
    "receive",
    "send",
    "storages_from_json",
]


def send(connection: Connection, message: Mapping[str, Any]) -> None:
    """Send one message.

    Raises:
        OSError: The other side is gone.
    """
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """Wait for one message.

    Raises:
        EOFError, OSError: The other side is gone.
    """
    return json.loads(connection.recv_bytes())


def entries_from_json(entries: Sequence[Any]) -> list[TensorEntry]:
    """Entries of a plan; as they are sent they are dicts."""
    found: list[TensorEntry] = []
    for entry in entries:
        known: dict[str, Any] = dict(entry)
        known["shape"] = tuple(entry["shape"])
        known["stride"] = None if entry["stride"] is None else tuple(entry["stride"])
        found.append(TensorEntry(**known))
    return found


def storages_from_json(storages: Sequence[Any]) -> list[PlannedStorage]:
    """Storages of a plan; as they are sent they are lists."""
    return [PlannedStorage(*storage) for storage in storages]


def info_to_json(info: CheckpointInfo) -> dict[str, Any]:
    """What became of a checkpoint."""
    fields = asdict(info)
    fields["digest"] = [info.digest.size_bytes, info.digest.xxh3_128.hex()]
    return fields


def info_from_json(fields: Mapping[str, Any]) -> CheckpointInfo:
    """What became of a checkpoint."""
    size_bytes, digest = fields["digest"]
    known: dict[str, Any] = dict(fields)
    known["digest"] = Digest(size_bytes, bytes.fromhex(digest))
    known["tags"] = tuple(fields["tags"])
    return CheckpointInfo(**known)


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An error as it is told to the other process."""
    if not isinstance(error, PenstockError):
        return {"type": "Internal", "message": f"{type(error).__name__}: {error}", "rest": {}}
    rest = {key: value for key, value in vars(error).items() if key not in ("message", "__notes__")}
    return {"type": type(error).__name__, "message": error.message, "rest": rest}


def error_from_json(fields: Mapping[str, Any]) -> PenstockError:
    """The error that the other process met."""
    kind = getattr(errors, fields["type"], Internal)
    error = kind(fields["message"])
    vars(error).update(fields["rest"])
    return error
