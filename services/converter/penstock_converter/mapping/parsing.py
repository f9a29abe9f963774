"""Mapping files: YAML, presets by name, dotted overrides, and what is wrong with them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from penstock.errors import InvalidInput
from penstock_converter.mapping.model import (
    Feature,
    Hdf5Output,
    LeRobotOutput,
    Mapping,
    Outputs,
    Part,
    Rosbag,
)

__all__ = ["fitting_presets", "load_mapping", "parse_mapping", "preset_text", "presets"]

_PRESETS = Path(__file__).parent / "presets"
MAX_MAPPING_BYTES = 1 << 20


def load_mapping(path: Path, overrides: Iterable[str] = ()) -> Mapping:
    """Read a mapping file, or a preset by its name.

    Raises:
        InvalidInput: The file cannot be read, or see ``parse_mapping``.
    """
    if not path.suffix and path.name == str(path) and not path.is_file():
        return parse_mapping(preset_text(path.name), overrides, source=f"preset {path.name}")
    try:
        if path.stat().st_size > MAX_MAPPING_BYTES:
            raise InvalidInput(f"mapping {path} is larger than {MAX_MAPPING_BYTES} bytes")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"mapping {path} cannot be read: {error}", field="mapping") from error
    return parse_mapping(text, overrides, source=str(path))


def preset_text(name: str) -> str:
    """The YAML of a preset.

    Raises:
        InvalidInput: There is none of that name; names those there are.
    """
    known = presets()
    if name not in known:
        raise InvalidInput(
            f"mapping {name}: neither a file nor a preset: the presets are {', '.join(known)}",
            field="mapping",
        )
    return (_PRESETS / f"{name}.yaml").read_text("utf-8")


def presets() -> dict[str, str]:
    """All presets and what each is for: the first line of its file."""
    found: dict[str, str] = {}
    for file in sorted(_PRESETS.glob("*.yaml")):
        found[file.stem] = file.read_text("utf-8").partition("\n")[0].removeprefix("# ")
    return found


def fitting_presets(topics: Collection[str]) -> list[str]:
    """Presets all of whose topics are among ``topics``, those that take more of them first."""
    needed = {name: set(parse_mapping(preset_text(name)).topics) for name in presets()}
    fitting = [name for name, asked in needed.items() if asked <= set(topics)]
    return sorted(fitting, key=lambda name: -len(needed[name]))


def parse_mapping(text: str, overrides: Iterable[str] = (), *, source: str = "mapping") -> Mapping:
    """Parse a mapping and apply dotted overrides such as ``rosbag.chunk_size=1000``.

    A name with dots, such as a feature's, goes into brackets: ``features[next.reward].topic=/r``;
    items of lists count from 0: ``features.action.parts[0].scale=0.01``. The name of a preset
    stands for its text.

    Raises:
        InvalidInput: The text is no YAML, a key is unknown or a value does not fit; names it.
    """
    if len(text) > MAX_MAPPING_BYTES:
        raise InvalidInput(f"{source} is larger than {MAX_MAPPING_BYTES} bytes", field="mapping")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        why = " ".join(str(error).replace("<unicode string>", source).split())
        raise InvalidInput(f"{source} is not YAML: {why}", field="mapping") from error
    if isinstance(content, str) and content in presets():
        content = yaml.safe_load(preset_text(content))
    if not isinstance(content, dict):
        raise InvalidInput(
            f"{source} holds a {type(content).__name__}: expected keys such as fps and features, "
            f"or the name of a preset: {', '.join(presets())}",
            field="mapping",
        )
    for override in overrides:
        _override(content, override)
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        raise _explain(source, error) from error


def _override(content: dict[Any, Any], text: str) -> None:
    """Set one value in place; the value is YAML."""
    # Of no use to those who override nothing, and large.
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidInput(
            f"override {text!r}: write it as key=value, e.g. rosbag.chunk_size=1000", field=text
        )
    try:
        path = _split(key)
        # OmegaConf reads the value as it would in a file: numbers, lists, null, quotes. Nothing
        # is interpolated: clients of a service must not read its environment.
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"v={value}"]), resolve=False)
        parsed = parsed["v"]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise InvalidInput(f"override {text!r}: {error}", field=key) from error
    node: Any = content
    for part, following in itertools.pairwise(path):
        place = _place(node, part, text)
        child = node[place] if isinstance(node, list) else node.get(place)
        if child is None:
            child = node[place] = {}
        if not isinstance(child, dict | list):
            raise InvalidInput(f"override {text!r}: {part!r} holds no {following!r}", field=key)
        node = child
    node[_place(node, path[-1], text)] = parsed


def _place(node: Any, part: str, text: str) -> Any:
    """Key in a mapping, or number of an item of a list, e.g. of ``parts[0].scale``."""
    if isinstance(node, dict):
        return part
    if not part.isdecimal() or int(part) >= len(node):
        raise InvalidInput(
            f"override {text!r}: {part!r} is none of the {len(node)} items, which count from 0",
            field=text.partition("=")[0],
        )
    return int(part)


def _split(key: str) -> list[str]:
    """``a[b.c].d`` into ``a``, ``b.c``, ``d``."""
    parts: list[str] = []
    for position, piece in enumerate(key.split("[")):
        inside, closed, rest = piece.partition("]") if position else ("", "", piece)
        if position and not closed:
            raise ValueError("a bracket is not closed")
        parts += [inside] if position else []
        parts += [part for part in rest.split(".") if part]
    if not parts:
        raise ValueError("the key is empty")
    return parts


def _explain(source: str, error: ValidationError) -> InvalidInput:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"][:-1])
        return InvalidInput(
            f"{source}: {field} is not known: the keys there are {', '.join(known)}", field=field
        )
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return InvalidInput(f"{source}: {field} is missing", field=field)
    given = problem["input"]
    shown = isinstance(given, str | int | float | bool | None)
    value = f" is {given!r:.100}" if shown else ""
    where = f"{field}{value}: " if field else ""
    return InvalidInput(f"{source}: {where}{message}", field=field)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "": Mapping,
        "rosbag": Rosbag,
        "features": Feature,
        "parts": Part,
        "outputs": Outputs,
        "outputs.lerobot": LeRobotOutput,
        "outputs.hdf5": Hdf5Output,
    }
    name = ".".join(map(str, location))
    if location[:1] == ("features",):
        name = "parts" if "parts" in location[2:] else "features"
    return list(models[name].model_fields)
