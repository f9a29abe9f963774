"""Message types: as a recording defines them, as ROS ships them, or as people give them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.msg import normalize_msgtype
from rosbags.typesys.store import Typestore

from penstock.errors import InvalidInput, NotFound

__all__ = ["Undefined", "load_definitions", "type_store"]

_IDL_SEPARATOR = "=" * 80 + "\n"
_IDL_MODULE = re.compile(r"^\s*module\s+\w+", re.MULTILINE)
_IDL_INCLUDE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
"""What the parser of rosbags stumbles over."""

_NAME = re.compile(r"[A-Za-z]\w*")
_FOLDERS = ("msg", "action")
_FILE_LIMIT_BYTES = 1_000_000
_FILES_LIMIT = 50_000
"""A whole installation of ROS has about 5 000."""

_LOWER_CONSTANT = re.compile(
    r"^[ \t]*(?:u?int\d+|float\d+|bool|byte|char|w?string)[ \t]+(?=\w*[a-z])\w+[ \t]*=.*$",
    re.MULTILINE,
)
"""Constants with small letters, such as ``int8 kError = -1``. Rosbags takes them for fields, which
moves all that follows; messages do not hold constants, so they may go."""


class Undefined(LookupError):
    """A type that nobody defines; ``args[0]`` is its name."""


def load_definitions(paths: Sequence[Path]) -> dict[str, str]:
    """Read definitions of message types from ``.msg`` and ``.idl`` files.

    Args:
        paths: Files, and folders that are searched through. A type is named by where its file
            lies: ``pkg/msg/Name.msg``, or ``pkg/Name.msg``.

    Returns:
        Texts by ``pkg/msg/Name``, as ``open_bag`` takes them. Where a type has both kinds of
        files, it is the text of ``.msg``.

    Raises:
        NotFound: A path is missing, or a folder holds no such files.
        InvalidInput: A file is no definition or too large, or two of a type differ.
    """
    found: dict[str, str] = {}
    origin: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path}: there is no such file or folder of message definitions")
        files = list(_files(path))
        if not files:
            raise NotFound(f"{path}: holds no .msg or .idl files, such as kuavo_msgs/msg/Name.msg")
        for file in files:
            name, text = _name(file), _text(file)
            before = origin.get(name)
            if before is None or (before.suffix, file.suffix) == (".idl", ".msg"):
                found[name], origin[name] = text, file
            elif before.suffix == file.suffix and found[name] != text:
                raise InvalidInput(
                    f"{before} and {file} define {name} differently: give the one that was "
                    "recorded with"
                )
            if len(found) > _FILES_LIMIT:
                raise InvalidInput(
                    f"{path}: holds more than {_FILES_LIMIT} definitions: name the folders of "
                    "the packages that are needed"
                )
    return found


@functools.lru_cache(maxsize=256)
def type_store(
    msgtype: str,
    definition: MessageDefinition,
    given: tuple[tuple[str, str], ...] = (),
    *,
    ros1: bool = False,
) -> Typestore:
    """Types that ``msgtype`` is made of; kept, because recordings of one robot share them.

    Args:
        msgtype: As ``pkg/msg/Name``.
        definition: What the recording says of it.
        given: Texts by name; they count where the recording says nothing.
        ros1: Whether what ROS ships is that of ROS 1.

    Raises:
        Undefined: Neither the recording nor ``given`` nor ROS defines it, or a type in it.
        Exception: A definition cannot be parsed; rosbags has many ways to say so.
    """
    texts = {normalize_msgtype(name): text for name, text in given}
    store = get_typestore(Stores.EMPTY)
    if definition.format is MessageDefinitionFormat.MSG:
        store.register(get_types_from_msg(_without_constants(definition.data), msgtype))
    elif definition.format is MessageDefinitionFormat.IDL:
        _register_idl(store, definition.data)
    wanted = {msgtype}
    while missing := sorted(wanted - store.fielddefs.keys()):
        name = missing[0]
        if name in texts:
            if _IDL_MODULE.search(texts[name]):
                _register_idl(store, texts[name])
            else:
                store.register(get_types_from_msg(_without_constants(texts[name]), name))
        elif name in (shipped := _shipped(ros1=ros1)):
            store.register({name: shipped[name]})
        if name not in store.fielddefs:
            raise Undefined(name)
        wanted |= _types_in(store)
    return store


def _shipped(*, ros1: bool) -> Typesdict:
    """What ROS ships; made when it is first asked for, as most recordings define what they hold."""
    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST).fielddefs


def _without_constants(text: str) -> str:
    return _LOWER_CONSTANT.sub("", text)


def _register_idl(store: Typestore, text: str) -> None:
    parts = text.split(_IDL_SEPARATOR)[1:] if text.startswith(_IDL_SEPARATOR) else [text]
    for part in parts:
        body = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
        store.register(get_types_from_idl(_IDL_INCLUDE.sub("", body)))


def _types_in(store: Typestore) -> set[str]:
    """Names of the types of all fields."""
    found: set[str] = set()
    for _, fields in store.fielddefs.values():
        for _, (node, content) in fields:
            inner: Any = (node, content)
            if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                inner = content[0]
            if inner[0] is Nodetype.NAME:
                found.add(str(inner[1]))
    return found


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        if path.suffix not in (".msg", ".idl"):
            raise InvalidInput(f"{path}: a message definition is a .msg or .idl file, or a folder")
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        # Definitions of services become .idl files too.
        service = file.suffix == ".idl" and file.parent.name == "srv"
        if file.suffix in (".msg", ".idl") and file.is_file() and not (hidden or service):
            yield file


def _name(file: Path) -> str:
    file = file.absolute()
    kind = file.parent.name if file.parent.name in _FOLDERS else "msg"
    package = file.parent.parent if file.parent.name in _FOLDERS else file.parent
    if not (_NAME.fullmatch(package.name) and _NAME.fullmatch(file.stem)):
        raise InvalidInput(
            f"{file}: is to lie in pkg/msg or pkg, where pkg is the name of its package: "
            f"{package.name}/{kind}/{file.stem} is no name of a type"
        )
    return f"{package.name}/{kind}/{file.stem}"


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(_FILE_LIMIT_BYTES + 1)
    if len(data) > _FILE_LIMIT_BYTES:
        raise InvalidInput(f"{file}: has more than {_FILE_LIMIT_BYTES} bytes: is it a definition?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: is no text in UTF-8 (byte {error.start})") from error
