"""Opens the storage files of a recording: as rosbags finds them, or by what is left of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import DataFault
from penstock_converter.recordings.storage import Channel, Storage, channel_of

__all__ = ["STORAGE_SUFFIXES", "Opened", "open_storages", "short", "storage_files"]

STORAGE_SUFFIXES = (".bag", ".mcap", ".db3")
_UNFINISHED = (
    "not indexed",
    "index looks damaged",
    "end magic",
    "Invalid argument",
    "malformed",
    "cut off",
)
"""What rosbags says of recordings whose recorder was stopped before it wrote their end."""


class Opened(NamedTuple):
    """Storage files of a recording in their order, and topics that were announced in it."""

    storages: tuple[Storage, ...]
    announced: tuple[Channel, ...]


def open_storages(path: Path, stack: ExitStack, *, salvage: bool) -> Opened:
    """Open a file, or the folder of a ROS 2 recording.

    Args:
        path: The recording.
        stack: Closes what is opened.
        salvage: Take what is left of files that are cut off or damaged. Each is read through
            once more, to find out.

    Raises:
        DataFault: It is no recording, empty, truncated or damaged.
    """
    if path.is_dir() and (path / "metadata.yaml").is_file():
        try:
            return _open_folder(path, stack, salvage=salvage)
        except Exception as error:
            if not salvage or not storage_files(path):
                raise _unreadable(path, path, error, salvage=salvage) from error
    return Opened(_open_files(path, stack, salvage=salvage), ())


def storage_files(folder: Path) -> list[Path]:
    """Storage files of a ROS 2 recording, ``name_2`` before ``name_10``."""
    found = [file for file in folder.iterdir() if file.suffix in (".mcap", ".db3")]
    return sorted(found, key=lambda file: (len(file.name), file.name))


def short(error: BaseException) -> str:
    """First line of an error, at most 200 characters, without its full stop."""
    # Some errors of rosbags hold a tuple where others hold a text.
    lines = str(error).replace("('", "").replace("',)", "").splitlines()
    return lines[0][:200].removesuffix(".") if lines else type(error).__name__


def _open_folder(path: Path, stack: ExitStack, *, salvage: bool) -> Opened:
    """A folder with metadata, which may be compressed file by file."""
    from rosbags import rosbag2  # noqa: PLC0415 - one kind of reader is enough for most

    reader = rosbag2.Reader(path)
    reader.open()
    stack.callback(_quietly, reader.close)
    # Only the reader of a folder has several.
    inner: Sequence[Any] = getattr(reader.storage, "storages", ())
    storages = tuple(_of_reader(each, stack, salvage=salvage) for each in inner)
    recorded = {channel.topic for storage in storages for channel in storage.channels}
    announced = tuple(channel_of(each) for each in reader.connections if each.topic not in recorded)
    return Opened(storages, announced)


def _open_files(path: Path, stack: ExitStack, *, salvage: bool) -> tuple[Storage, ...]:
    """A file, or the files of a folder one by one."""
    storages: list[Storage] = []
    failures: list[tuple[Path, Exception]] = []
    for file in _files(path):
        try:
            storages.append(_open_file(file, stack, salvage=salvage))
        except Exception as error:  # noqa: BLE001 - raised below, unless other files are good
            failures.append((file, error))
            if not salvage:
                break
    if failures and not (salvage and storages):
        file, error = failures[0]
        raise _unreadable(path, file, error, salvage=salvage) from error
    if failures:
        lost = (f"salvaged: nothing of {file.name}: {short(error)}" for file, error in failures)
        storages[0].warnings = (*lost, *storages[0].warnings)
    return tuple(storages)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in STORAGE_SUFFIXES and not _is_ros1(path):
            raise DataFault(
                f"{path}: a recording ends in .bag, .mcap or .db3, or is the folder of one",
                reason="NOT_A_BAG",
            )
        return [path]
    # A recorder that was killed leaves no metadata; the storage files are good without it.
    files = storage_files(path)
    if not files:
        raise DataFault(
            f"{path}: holds neither metadata.yaml nor .mcap or .db3 files: is it the folder of a "
            "recording?",
            reason="NOT_A_BAG",
        )
    return files


def _open_file(path: Path, stack: ExitStack, *, salvage: bool) -> Storage:
    """One storage file."""
    ros1 = _is_ros1(path)
    reader: Any
    try:
        reader = _reader(path)
        reader.open()
        stack.callback(_quietly, reader.close)
        return _of_reader(reader if ros1 else reader.storage, stack, salvage=salvage)
    except Exception:
        if salvage:
            # What was said of the file tells more than where the search for messages ended.
            with suppress(Exception):
                storage = _new(path, None, stack)
                if storage.salvage():
                    return storage
        raise


def _reader(path: Path) -> Any:
    # One kind of reader is enough for most, and each brings its own libraries.
    if _is_ros1(path):
        from penstock_converter.recordings.ros1_index import Ros1Index  # noqa: PLC0415

        return Ros1Index(path)
    from rosbags import rosbag2  # noqa: PLC0415

    return rosbag2.Reader(path)


def _of_reader(reader: Any, stack: ExitStack, *, salvage: bool) -> Storage:
    storage = _new(Path(reader.path), reader, stack)
    if salvage:
        storage.salvage()
    return storage


def _new(path: Path, reader: Any, stack: ExitStack) -> Storage:
    """The storage of a file; ``reader`` is what rosbags opened it with, if it could."""
    storage: Storage
    if _is_ros1(path):
        from penstock_converter.recordings.ros1 import Ros1File  # noqa: PLC0415 - see _reader

        storage = Ros1File(path, reader)
    elif _is_mcap(path, reader):
        from penstock_converter.recordings.mcap import McapFile  # noqa: PLC0415 - same

        storage = McapFile(path, reader)
    else:
        from penstock_converter.recordings.db3 import Db3File  # noqa: PLC0415 - same

        storage = Db3File(path, reader)
    stack.callback(storage.close)
    return storage


def _is_mcap(path: Path, reader: Any) -> bool:
    if reader is None:
        return path.suffix == ".mcap"
    from rosbags.rosbag2.storage_mcap import McapReader  # noqa: PLC0415 - same

    return isinstance(reader, McapReader)


def _is_ros1(path: Path) -> bool:
    """Recorders name a bag ``.bag.active`` until they have finished it."""
    return path.suffix == ".bag" or path.suffixes[-2:] == [".bag", ".active"]


def _quietly(close: Callable[[], None]) -> None:
    # Closing a damaged file must not hide what was wrong with it.
    with suppress(Exception):
        close()


def _unreadable(path: Path, file: Path, error: Exception, *, salvage: bool) -> DataFault:
    advice = _advice(file, error, salvage=salvage)
    where = "" if file == path else f"{file.name}: "
    return DataFault(
        f"{path}: {where}cannot be opened as a recording: {short(error)}.{advice}",
        reason="BAG_UNREADABLE",
        metadata={"bag": str(path)},
    )


def _advice(path: Path, error: Exception, *, salvage: bool) -> str:
    text = str(error)
    if "seems to be empty" in text or (path.is_file() and path.stat().st_size == 0):
        return " Nothing was recorded."
    if salvage:
        return " Nothing of it can be salvaged: copy or record it again."
    take = "take what is left of it with rosbag.salvage=true"
    if any(words in text for words in _UNFINISHED):
        fix = "rosbag reindex" if _is_ros1(path) else "mcap recover"
        return f" The recorder did not finish it: {take}, or repair a copy with `{fix}`."
    return f" It is damaged, or no recording of that kind: copy or record it again, or {take}."
