"""Nested rollouts and their leaves: arrays by path, all with the same environments and steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput, LimitExceeded
from penstock.rollout_file.limits import Limits

__all__ = ["DTYPES", "Leaves", "flatten", "unflatten"]

Leaves = dict[str, NDArray[Any]]
"""Path, joined by ``/``, to array ``[env, time, ...]``; all have the same envs and steps."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}
"""What a field may hold."""


def flatten(data: Mapping[str, Any], limits: Limits | None = None) -> Leaves:
    """Take a nested rollout apart; nothing is copied.

    Args:
        data: Nested mappings (a TensorDict is one) of NumPy arrays or CPU torch tensors
            ``[env, time, ...]``. Keys may be paths already, so leaves stay what they are.
        limits: What is too large; None for the usual.

    Returns:
        The leaves in the order of ``data``.

    Raises:
        InvalidInput: A name, a dtype or a shape cannot be stored; ``field`` is the path.
        LimitExceeded: Too many fields.
    """
    limits = limits or Limits()
    leaves: Leaves = {}
    for path, value in _walk(data, "", 0):
        if path in leaves:
            raise InvalidInput(f"{path} is there twice", field=path)
        if len(path.encode()) > limits.name_bytes:
            message = f"{path:.40}... is longer than {limits.name_bytes} bytes"
            raise InvalidInput(message, field=path[:40])
        leaves[path] = _array(path, value)
        if len(leaves) > limits.fields:
            raise LimitExceeded(f"a rollout of more than {limits.fields} fields")
    if not leaves:
        raise InvalidInput("the rollout has no field: expected arrays [env, time, ...] by name")
    first, *_ = leaves
    expected = leaves[first].shape[:2]
    for path, array in leaves.items():
        _check_shape(path, array, first, expected, limits)
        parent, found, _ = path.rpartition("/")
        while found:
            if parent in leaves:
                raise InvalidInput(f"{parent} holds an array, and {path} is below it", field=path)
            parent, found, _ = parent.rpartition("/")
    return leaves


def unflatten(leaves: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Put leaves together to nested dicts; nothing is copied.

    Raises:
        InvalidInput: A path holds an array and has others below it.
    """
    whole: dict[str, Any] = {}
    for path, array in leaves.items():
        *above, name = path.split("/")
        place = whole
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InvalidInput(f"{path} is below an array", field=path)
        if name in place:
            raise InvalidInput(f"{path} holds an array and has others below it", field=path)
        place[name] = array
    return whole


_MAX_DEPTH = 64


def _walk(data: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise InvalidInput(f"{path:.80}... is nested deeper than {_MAX_DEPTH}", field=path[:80])
    for key, value in cast("Mapping[object, Any]", data).items():
        if not isinstance(key, str) or not all(key.split("/")):
            message = (
                f"the name {key!r:.80} below {path or 'the top'!r}: expected a text, not empty"
            )
            raise InvalidInput(message, field=path)
        if not key.isprintable():
            raise InvalidInput(f"the name {key!r:.80} is not printable", field=path)
        below = f"{path}/{key}" if path else key
        if isinstance(value, Mapping):
            yield from _walk(value, below, depth + 1)
        else:
            yield below, value


def _array(path: str, value: Any) -> NDArray[Any]:
    if type(value).__module__.partition(".")[0] == "torch":
        value = _of_torch(path, value)
    if not isinstance(value, np.ndarray):
        message = f"{path} is a {type(value).__name__}: expected a NumPy array or a torch tensor"
        raise InvalidInput(message, field=path)
    array = cast("NDArray[Any]", value)
    if array.dtype.name not in DTYPES:
        message = f"{path} is {array.dtype}: expected one of {', '.join(DTYPES)}"
        raise InvalidInput(message, field=path)
    return array


def _of_torch(path: str, tensor: Any) -> Any:
    if getattr(tensor, "device", None) is None:
        return tensor
    if tensor.device.type != "cpu":
        message = f"{path} is on the device {tensor.device}: copy it to the CPU first"
        raise InvalidInput(message, field=path)
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES:
        message = f"{path} is {name}: expected one of {', '.join(DTYPES)}"
        if name == "bfloat16":
            message += "; `.float()` loses nothing, and Encoding(half=...) makes it small"
        raise InvalidInput(message, field=path)
    try:
        return tensor.detach().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise InvalidInput(f"{path} is no plain tensor: {error}", field=path) from error


def _check_shape(
    path: str, array: NDArray[Any], first: str, expected: tuple[int, ...], limits: Limits
) -> None:
    shape = array.shape
    if len(shape) < 2:  # noqa: PLR2004 - environment and time
        raise InvalidInput(f"{path} has the shape {shape}: expected [env, time, ...]", field=path)
    if shape[:2] != expected:
        message = f"{path} has {shape[0]} envs x {shape[1]} steps, {first} has {expected}"
        raise InvalidInput(message, field=path)
    if 0 in expected:
        message = f"{path} has {shape[0]} envs x {shape[1]} steps: expected at least one of each"
        raise InvalidInput(message, field=path)
    if shape[0] > limits.envs or shape[1] > limits.steps:
        message = f"{path} has {shape[0]} envs x {shape[1]} steps: at most {limits.envs} and "
        raise InvalidInput(message + f"{limits.steps} can be stored", field=path)
    if len(shape) - 2 > limits.axes:
        raise InvalidInput(f"{path} has {len(shape)} axes, at most {limits.axes + 2}", field=path)
