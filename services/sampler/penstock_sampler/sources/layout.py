"""Recognising the two HDF5 layouts, and checking that a file keeps to one of them.

Format A keeps ``joint`` and the images in a group ``observations``; format B keeps everything at
the root. See docs/data-layout.md for all rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from penstock_sampler.checks.findings import Findings
from penstock_sampler.options import CameraNames, DataOptions
from penstock_sampler.sources.column import Column
from penstock_sampler.sources.column_checks import (
    MAX_ROWS,
    check_storage,
    check_vector,
    find_dataset,
    is_single_column,
)
from penstock_sampler.sources.images import ImageColumn, check_image
from penstock_sampler.sources.opening import Hdf5File

__all__ = ["FileLayout", "read_layout"]

_INTEGERS = "iu"
_NUMBERS = "fiu"
_FLAGS = "bfiu"


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Where everything is in one file.

    Attributes:
        format: ``A`` or ``B``.
        rows: N, the number of actions.
        observations: N or N + 1.
        joint: Path of the joint dataset, ``(observations, joint_dim)``.
        joint_dim: Width of a joint vector.
        action: Path of the action dataset, ``(rows, action_dim)``.
        action_dim: Width of an action vector.
        reward: Path of the rewards, ``(rows,)`` or ``(rows, 1)``.
        terminal: Path of the terminal flags, same shape.
        cuts: Paths of flags that end an episode without terminating it (``truncateds``,
            ``timeouts``), same shape.
        episode_ends: Path of explicit episode ends (exclusive, ascending), or empty.
        images: One entry per camera, in the order of the options.
    """

    format: Literal["A", "B"]
    rows: int
    observations: int
    joint: str
    joint_dim: int
    action: str
    action_dim: int
    reward: str
    terminal: str
    cuts: tuple[str, ...]
    episode_ends: str
    images: tuple[ImageColumn, ...]


def read_layout(file: Hdf5File, options: DataOptions, findings: Findings) -> FileLayout | None:
    """Recognise the layout of ``file`` from its metadata alone.

    Every check leaves a finding.

    Returns:
        The layout, or None when a finding is a fault.
    """
    grouped = file.is_group("observations")
    prefix = "observations/" if grouped else ""
    findings.ok("format", "format A (group observations/)" if grouped else "format B (all at root)")

    joint = _vector(file, f"{prefix}joint", findings)
    action = _vector(file, "actions", findings)
    reward = _flat(file, "rewards", _NUMBERS, findings)
    terminal = _flat(file, "terminals", _FLAGS, findings)
    cuts = [
        column
        for name in ("truncateds", "timeouts")
        if file.has(name) and (column := _flat(file, name, _FLAGS, findings)) is not None
    ]
    ends = _episode_ends(file, findings)
    images = [_image(file, prefix, camera, options, findings) for camera in options.cameras]
    seen = [found for found in images if found is not None]
    if action is not None:
        observed = [joint, *(column for column, _ in seen)]
        _check_rows(action, [reward, terminal, *cuts], observed, findings)
    if findings.faults or joint is None or action is None or reward is None or terminal is None:
        return None
    return FileLayout(
        format="A" if grouped else "B",
        rows=action.rows,
        observations=joint.rows,
        joint=joint.path,
        joint_dim=int(joint.shape[1]),
        action=action.path,
        action_dim=int(action.shape[1]),
        reward=reward.path,
        terminal=terminal.path,
        cuts=tuple(column.path for column in cuts),
        episode_ends=ends,
        images=tuple(image for _, image in seen),
    )


def _vector(file: Hdf5File, path: str, findings: Findings) -> Column | None:
    column = find_dataset(file, path, (path,), findings)
    if column is None or not check_vector(column, _NUMBERS, findings):
        return None
    return column if check_storage(column, path, findings) else None


def _flat(file: Hdf5File, path: str, kinds: str, findings: Findings) -> Column | None:
    column = find_dataset(file, path, (path,), findings)
    if column is None:
        return None
    if not is_single_column(column):
        findings.fail(
            path,
            f"{path} has shape {column.shape}: expected (N,) or (N, 1)",
            remedy="write one value a row",
            reason="WRONG_RANK",
            dataset=path,
        )
        return None
    if column.dtype.kind not in kinds:
        findings.fail(
            path,
            f"{path} has dtype {column.dtype}: expected "
            + ("bool or numbers" if kinds == _FLAGS else "float32 or other numbers"),
            remedy="write it as bool" if kinds == _FLAGS else "write it as float32",
            reason="WRONG_DTYPE",
            dataset=path,
        )
        return None
    if not check_storage(column, path, findings):
        return None
    findings.ok(path, column.described, dataset=path)
    return column


def _episode_ends(file: Hdf5File, findings: Findings) -> str:
    path = "episode_ends"
    if not file.has(path):
        return ""
    column = find_dataset(file, path, (path,), findings)
    if column is None:
        return ""
    if len(column.shape) != 1 or column.dtype.kind not in _INTEGERS:
        findings.fail(
            path,
            f"{path} has shape {column.shape} and dtype {column.dtype}: expected (episodes,) "
            "integers",
            remedy="write the exclusive end row of each episode",
            reason="WRONG_RANK" if len(column.shape) != 1 else "WRONG_DTYPE",
            dataset=path,
        )
        return ""
    return path


def _image(
    file: Hdf5File, prefix: str, camera: CameraNames, options: DataOptions, findings: Findings
) -> tuple[Column, ImageColumn] | None:
    accepted = tuple(prefix + name for name in camera.datasets)
    check = f"{camera.name} camera"
    column = find_dataset(file, check, accepted, findings, camera=camera.name)
    if column is None:
        return None
    image = check_image(column, camera.name, options.image_order, findings)
    if image is None or not check_storage(column, check, findings):
        return None
    return column, image


def _check_rows(
    action: Column,
    per_action: Sequence[Column | None],
    observed: Sequence[Column | None],
    findings: Findings,
) -> None:
    """Compare row counts: N for what belongs to an action, N or N + 1 for observations."""
    rows = action.rows
    faults = len(findings.faults)
    if not 0 < rows <= MAX_ROWS:
        findings.fail(
            "row counts",
            f"{action.path} has {rows} rows: expected 1 to {MAX_ROWS}",
            remedy="record it again" if rows == 0 else "split the file",
            reason="EMPTY" if rows == 0 else "TOO_LARGE",
            dataset=action.path,
        )
        return
    columns = [(column, (rows,)) for column in per_action if column is not None]
    columns += [(column, (rows, rows + 1)) for column in observed if column is not None]
    for column, accepted in columns:
        if column.rows not in accepted:
            wanted = f"{rows} (N)" + (f" or {rows + 1} (N+1)" if len(accepted) > 1 else "")
            findings.fail(
                "row counts",
                f"{column.path} has {column.rows} rows, {action.path} has {rows}: "
                f"expected {wanted}",
                remedy="cut the longer one, or record it again (see docs/data-layout.md)",
                reason="ROW_COUNT_MISMATCH",
                dataset=column.path,
            )
    lengths = {column.path: column.rows for column in observed if column is not None}
    if len(findings.faults) == faults and len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        findings.fail(
            "row counts",
            f"observations differ in rows ({shown}): expected all N ({rows}) or all N+1",
            remedy="cut the longer ones to N",
            reason="ROW_COUNT_MISMATCH",
            dataset="observations",
        )
    if len(findings.faults) == faults:
        findings.ok(
            "row counts", f"{rows} actions, {max(lengths.values(), default=rows)} observations"
        )
