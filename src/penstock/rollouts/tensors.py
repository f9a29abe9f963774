"""Rollouts as users hold them: nested dicts of arrays or tensors, and TensorDicts.

Neither torch nor tensordict is imported before a rollout asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from penstock.container.torch_bridge import loaded_torch, require_torch
from penstock.errors import InvalidInput, Unsupported
from penstock.rollout_file import flatten, unflatten

__all__ = ["Kinds", "as_torch", "is_tensordict", "kinds_of", "leaves_of", "nested"]

_ENV_AND_TIME = 2


def is_tensordict(value: object) -> bool:
    """Whether a value is a TensorDict or behaves like one."""
    return all(hasattr(value, name) for name in ("to_dict", "batch_size", "items"))


def leaves_of(data: Any) -> dict[str, NDArray[Any]]:
    """The leaves of a rollout as arrays in host memory, by path.

    Args:
        data: Nested dicts of arrays or torch tensors on any device, or a TensorDict, each leaf
            ``[env, time, ...]``.

    Raises:
        InvalidInput: It holds something else; names its path.
    """
    return dict(flatten(_plain(data, "")))


@dataclass(frozen=True, slots=True)
class Kinds:
    """What the leaves of a rollout are.

    Attributes:
        torch: Paths of torch tensors; the others are arrays.
        off_host: Those of them that lie in the memory of a device.
    """

    torch: frozenset[str]
    off_host: frozenset[str]


def kinds_of(data: Any) -> Kinds:
    """Tell what the leaves of a rollout are."""
    torch = loaded_torch()
    if torch is None:
        return Kinds(frozenset(), frozenset())
    tensors = {path: leaf for path, leaf in _walk(data, "") if isinstance(leaf, torch.Tensor)}
    off_host = {path for path, tensor in tensors.items() if tensor.device.type != "cpu"}
    return Kinds(frozenset(tensors), frozenset(off_host))


def as_torch(leaves: Mapping[str, NDArray[Any]], device: Any = None) -> dict[str, Any]:
    """Torch tensors over the memory of arrays, or on another device.

    Raises:
        Unsupported: Torch is not installed, or has no such dtype.
    """
    torch = require_torch("a rollout as tensors")
    found: dict[str, Any] = {}
    for path, array in leaves.items():
        try:
            tensor = torch.from_numpy(array)
        except TypeError as error:
            raise Unsupported(
                f"{path} is {array.dtype}, which torch does not have: load it without a device, as "
                "an array"
            ) from error
        found[path] = tensor if device is None else tensor.to(device)
    return found


def nested(
    leaves: Mapping[str, Any], *, as_tensordict: bool = False, batch_size: tuple[int, ...] = ()
) -> Any:
    """The nested rollout of leaves by path: dicts, or one TensorDict of torch tensors.

    Raises:
        Unsupported: ``as_tensordict`` without tensordict installed.
    """
    tree = unflatten(leaves)
    if not as_tensordict:
        return tree
    return _require_tensordict().TensorDict(tree, batch_size=list(batch_size))


def _require_tensordict() -> Any:
    """Import tensordict.

    Raises:
        Unsupported: It is not installed.
    """
    try:
        return importlib.import_module("tensordict")
    except ImportError as error:
        raise Unsupported(
            "a rollout as a TensorDict needs tensordict, which is not installed: "
            "pip install 'penstock[rollouts]'",
            reason="TENSORDICT_MISSING",
        ) from error


def _plain(data: Any, path: str) -> Any:
    """Nested dicts of what lies in host memory."""
    if is_tensordict(data):
        _check_batch(data, path)
        return _plain(data.to_dict(), path)
    if isinstance(data, Mapping):
        branch = cast("Mapping[Any, Any]", data)
        return {key: _plain(value, _below(path, key)) for key, value in branch.items()}
    torch = loaded_torch()
    if torch is not None and isinstance(data, torch.Tensor):
        return data.detach().cpu()
    return data


def _check_batch(data: Any, path: str) -> None:
    shape = tuple(data.batch_size)
    if len(shape) < _ENV_AND_TIME:
        raise InvalidInput(
            f"{path or 'the rollout'} is a TensorDict of batch_size {list(shape)}: expected "
            "[envs, steps, ...]; give one without environments a first axis: unsqueeze(0)",
            field=path,
        )


def _walk(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = data.items() if isinstance(data, Mapping) or is_tensordict(data) else None
    if items is None:
        yield path, data
        return
    for key, value in items:
        yield from _walk(value, _below(path, key))


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
