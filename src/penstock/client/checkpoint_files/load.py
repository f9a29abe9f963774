"""Checkpoint files of all kinds, told apart by their first bytes, never by their names."""

from __future__ import annotations

import importlib
import pickle
import re
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import lz4.frame

from penstock.container import MAGIC, Limits, Reader
from penstock.container.torch_bridge import require_torch
from penstock.disk import full_disk_named
from penstock.errors import Corrupt, DataFault, InvalidInput, LimitExceeded, NotFound, Unsupported

__all__ = ["FileKind", "kind_of_file", "load_file", "opened_plain"]

FileKind = Literal["pstk", "zip", "legacy", "pickle", "safetensors"]
"""What a file is: ``zip`` and ``legacy`` are both ways in which ``torch.save`` writes."""

_LZ4_FRAME = b"\x04\x22\x4d\x18"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_LEGACY_TORCH = bytes.fromhex("6cfc9c46f9206aa85019")
"""The number at the beginning of what ``torch.save`` wrote before it wrote ZIP archives."""
_HEAD_BYTES = 32
_PIECE_BYTES = 1 << 20
_SAFETENSORS_HEADER_BYTES = 100 << 20

_TORCH_FAULTS = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    struct.error,
)
_UNKNOWN_TYPE = re.compile(r"GLOBAL (\S+)")


def load_file(path: Path, *, map_location: str = "cpu", only: Sequence[Any] = ()) -> Any:
    """Load a state from a file.

    Args:
        path: ``.pstk``, ``.pt``, safetensors, or the first two inside an LZ4 frame.
        map_location: Where torch tensors go.
        only: Keys that lead to the part wanted.

    Raises:
        NotFound: There is no such file.
        Corrupt: It is damaged.
        DataFault: It is no checkpoint, or holds pickled objects.
        InvalidInput: ``only`` leads nowhere.
        LimitExceeded: It decompresses to more than a checkpoint may have.
    """
    try:
        with path.open("rb") as file:
            return _load(file, str(path), map_location, only)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error


def _load(file: BinaryIO, name: str, map_location: str, only: Sequence[Any]) -> Any:
    with opened_plain(file, name) as (plain, called):
        kind = kind_of_file(plain, called)
        if kind == "pstk":
            with Reader(plain) as reader:
                return reader.load(only=only, device=map_location)
        if kind == "safetensors":
            return _part(_load_safetensors(plain, called, map_location), only)
        if kind == "pickle":
            raise _refused(called, "was not written by torch.save")
        if kind == "zip":
            _check_archive(plain, called)
        return _part(_load_torch(plain, called, map_location), only)


@contextmanager
def opened_plain(file: BinaryIO, name: str) -> Generator[tuple[BinaryIO, str]]:
    """A file as it is, or what its LZ4 frame holds, and how to call it in a message.

    Raises:
        Corrupt: The frame is damaged.
        DataFault: There is another frame inside.
        LimitExceeded: It decompresses to more than a checkpoint may have, or the disk is full.
    """
    if not _head(file).startswith(_LZ4_FRAME):
        yield file, name
        return
    with tempfile.TemporaryFile(prefix="penstock-") as plain:
        _decompress(file, plain, name)
        if _head(plain).startswith(_LZ4_FRAME):
            raise DataFault(f"{name} is an LZ4 frame inside an LZ4 frame: decompress it once")
        yield plain, f"{name} (decompressed)"


def kind_of_file(file: BinaryIO, name: str) -> FileKind:
    """Tell what a file is by its content.

    Raises:
        Corrupt: It is empty.
        DataFault: It is no checkpoint.
    """
    head = _head(file)
    if head.startswith(MAGIC[:5]):
        return "pstk"
    if head.startswith(_ZIP):
        return "zip"
    if head.startswith(_PICKLE):
        return "legacy" if _LEGACY_TORCH in head else "pickle"
    if _is_safetensors(file, head):
        return "safetensors"
    if not head:
        raise Corrupt(f"{name} has 0 bytes: copy or save it again", reason="TRUNCATED")
    raise DataFault(
        f"{name} begins with {head[:8]!r}, which is no checkpoint: expected .pstk, .pt, an LZ4 "
        "frame of one of them, or safetensors",
        reason="UNKNOWN_FORMAT",
    )


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


def _decompress(file: BinaryIO, plain: BinaryIO, name: str) -> None:
    limit = Limits().raw_size_bytes
    total = 0
    try:
        doing = f"decompressing {name} to {tempfile.gettempdir()}"
        with full_disk_named(doing), lz4.frame.open(file, "rb") as frame:
            while piece := cast("bytes", frame.read(_PIECE_BYTES)):
                total += len(piece)
                if total > limit:
                    raise LimitExceeded(f"{name} decompresses to more than {limit} bytes")
                plain.write(piece)
    except (RuntimeError, EOFError) as error:
        raise Corrupt(f"{name}: its LZ4 frame is damaged or cut off: {error}") from error
    plain.flush()


def _load_torch(file: BinaryIO, name: str, map_location: str) -> Any:
    torch = require_torch(f"{name} (a .pt file)")
    try:
        with warnings.catch_warnings():
            # Said of pickles that torch did not write; whether it can be read shows right after.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        found = _UNKNOWN_TYPE.search(str(error))
        what = f"holds {found[1]}, which is" if found else "is damaged, or holds what is"
        raise _refused(name, f"{what} neither a tensor nor a plain value") from error
    except _TORCH_FAULTS as error:
        what = str(error).partition(". ")[0]
        raise Corrupt(
            f"{name}: its .pt content is cut off or damaged ({what:.120}): copy or save it again"
        ) from error


def _refused(name: str, what: str) -> DataFault:
    return DataFault(
        f"{name} is a pickle that {what}; it is not read, since that could run code: in the "
        "program that made it, save its state_dict() with Penstock, or, where you trust the file: "
        "penstock checkpoints convert --trust FILE OUTPUT.pstk",
        reason="PICKLE_REFUSED",
    )


def _check_archive(file: BinaryIO, name: str) -> None:
    """Refuse an archive that unpacks to more than its file has: torch stores without packing."""
    size_bytes = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise Corrupt(
            f"{name}: its .pt content is cut off or damaged ({error!s:.120}): copy or save it again"
        ) from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    unpacked_bytes = sum(entry.file_size for entry in entries)
    if packed or unpacked_bytes > size_bytes:
        what = f"the packed entry {packed[0]!r:.80}" if packed else "entries that overlap"
        raise DataFault(
            f"{name} ({size_bytes} bytes, {unpacked_bytes} unpacked) has {what}, which torch.save "
            "never writes: unpack it and store it again with zip -0, or save it anew",
            reason="ARCHIVE_REFUSED",
        )
    file.seek(0)


def _is_safetensors(file: BinaryIO, head: bytes) -> bool:
    # Eight bytes of header length, then JSON.
    if len(head) <= struct.calcsize("<Q") or head[8:9] != b"{":
        return False
    (length,) = struct.unpack_from("<Q", head)
    return 0 < length <= min(_SAFETENSORS_HEADER_BYTES, file.seek(0, 2))


def _load_safetensors(file: BinaryIO, name: str, map_location: str) -> dict[str, Any]:
    try:
        safetensors = importlib.import_module("safetensors")
    except ImportError as error:
        raise Unsupported(
            f"{name} is a safetensors file: pip install safetensors to read it"
        ) from error
    require_torch(f"{name} (a safetensors file)")
    path = getattr(file, "name", None)
    if not isinstance(path, str):
        raise DataFault(f"{name} is safetensors inside an LZ4 frame: decompress it first")
    try:
        with safetensors.safe_open(path, framework="pt", device=map_location) as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no dict
    except safetensors.SafetensorError as error:
        raise Corrupt(f"{name}: its safetensors content is damaged: {error}") from error


def _part(state: Any, only: Sequence[Any]) -> Any:
    for key in only:
        if not isinstance(state, dict) or key not in state:
            raise InvalidInput(f"the state has no {key!r} (only={tuple(only)!r})", field="only")
        state = cast("dict[Any, Any]", state)[key]
    return state
