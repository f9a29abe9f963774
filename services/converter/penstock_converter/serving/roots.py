"""Names that clients give, as paths that never leave the folders of the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from penstock.errors import InvalidInput, LimitExceeded, NotFound, PermissionDenied
from penstock_converter.recordings.discovery import bag_files, find_bags

__all__ = ["resolve_inputs", "resolve_output"]


def resolve_inputs(root: Path, inputs: Sequence[str], limit: int) -> list[Path]:
    """Recordings that names, folders or patterns relative to ``root`` stand for.

    Raises:
        InvalidInput: No input, an absolute one, or one with ``..``.
        NotFound: An input matches nothing.
        PermissionDenied: A link leads out of ``root``.
        LimitExceeded: More than ``limit`` recordings match.
    """
    if not inputs:
        raise InvalidInput("inputs is empty: name recordings, folders or patterns", field="inputs")
    home = root.resolve()
    found: dict[Path, None] = {}
    for name in inputs:
        path = root / _relative(name, "inputs")
        try:
            found.update(dict.fromkeys(find_bags([str(path)])))
        except NotFound as error:
            # The client's own word for it; where the folder lies is not its business.
            message = error.message.replace(str(path), name)
            raise NotFound(message, metadata={"input": name}) from error
    bags = list(found)
    if len(bags) > limit:
        raise LimitExceeded(
            f"{len(bags)} recordings match, at most {limit} are taken: split them up",
            reason="TOO_MANY_INPUTS",
        )
    for bag in bags:
        for file in (bag, *bag_files(bag)):
            if not file.resolve().is_relative_to(home):
                raise PermissionDenied(
                    f"{bag.relative_to(root)}: a link leads out of the input folder",
                    reason="OUTSIDE_ROOT",
                )
    return bags


def resolve_output(root: Path, name: str) -> Path:
    """Where a dataset called ``name`` goes.

    Raises:
        InvalidInput: It is empty, absolute, hidden or has ``..``.
        PermissionDenied: A link leads out of ``root``.
    """
    relative = _relative(name, "output")
    if any(part.startswith(".") for part in relative.parts) or not relative.parts:
        raise InvalidInput(
            f"output {name!r}: name a folder, and none that begins with a dot", field="output"
        )
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise PermissionDenied(
            f"output {name!r}: a link leads out of the output folder", reason="OUTSIDE_ROOT"
        )
    return path


def _relative(name: str, field: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise InvalidInput(
            f"{field}: {name!r} is not a name relative to the service's folder: give one without "
            "a leading / and without ..",
            field=field,
        )
    return path
