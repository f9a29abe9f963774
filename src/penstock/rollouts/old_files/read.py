"""Reading old rollout files of any kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from penstock.client.checkpoint_files.load import kind_of_file, load_file, opened_plain
from penstock.container.torch_bridge import loaded_torch
from penstock.errors import DataFault, InvalidInput, NotFound
from penstock.rollouts.old_files.tensors_only import load_tensors

__all__ = ["OldRollout", "iteration_of_name", "read_old"]

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class OldRollout:
    """What an old file holds.

    Attributes:
        data: Nested dicts of tensors and arrays.
        left_out: Paths of what is neither, and cannot be kept.
        widened: Paths of bfloat16, which became float32; that loses nothing.
    """

    data: dict[str, Any]
    left_out: tuple[str, ...]
    widened: tuple[str, ...]


def read_old(path: Path, *, trusted: bool) -> OldRollout:
    """Read a rollout that was saved by ``pickle`` or ``torch.save``, in an LZ4 frame or not.

    Args:
        path: The file.
        trusted: Whether a pickle is read, as far as it holds tensors, arrays and containers; what
            else it names is never run.

    Raises:
        NotFound: There is no such file.
        DataFault: It is no such file, or a pickle that names something else, or not ``trusted``.
        Corrupt: It is damaged.
    """
    try:
        with path.open("rb") as file, opened_plain(file, str(path)) as (plain, name):
            kind = kind_of_file(plain, name)
            if kind != "pickle":
                found = load_file(path)
            elif trusted:
                found = load_tensors(plain, name)
            else:
                raise DataFault(
                    f"{name} is a pickle: say --trust to read the tensors, arrays and dicts in it, "
                    "if you know where it is from",
                    reason="PICKLE_REFUSED",
                )
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    if not isinstance(found, Mapping):
        raise DataFault(f"{path} holds a {type(found).__name__}: expected a dict of tensors")
    left_out: list[str] = []
    widened: list[str] = []
    kept = _arrays_of(cast("Mapping[Any, Any]", found), "", left_out, widened)
    if not kept:
        raise DataFault(f"{path} holds no tensor or array [env, time, ...]")
    return OldRollout(kept, tuple(left_out), tuple(widened))


def iteration_of_name(path: Path) -> int:
    """The last number in a file's name: 120 for ``rollout_000120.lz4``.

    Raises:
        InvalidInput: There is none.
    """
    found = _NUMBER.findall(path.name.partition(".")[0])
    if not found:
        raise InvalidInput(
            f"{path.name} has no number to take for its iteration: give --first-iteration to "
            "number the files in the order they are named in",
            field="first_iteration",
        )
    return int(found[-1])


def _arrays_of(
    tree: Mapping[Any, Any], path: str, left_out: list[str], widened: list[str]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        below = f"{path}/{key}" if path else str(key)
        if isinstance(value, Mapping):
            branch = _arrays_of(cast("Mapping[Any, Any]", value), below, left_out, widened)
            if branch:
                kept[str(key)] = branch
        elif isinstance(value, np.ndarray):
            kept[str(key)] = value
        elif _is_tensor(value):
            if str(value.dtype) == "torch.bfloat16":
                widened.append(below)
                value = value.float()  # noqa: PLW2901 - the same values
            kept[str(key)] = value
        else:
            left_out.append(below)
    return kept


def _is_tensor(value: Any) -> bool:
    torch = loaded_torch()
    return torch is not None and isinstance(value, torch.Tensor)
