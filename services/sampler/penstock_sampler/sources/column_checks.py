"""Checks on one HDF5 dataset: is it there, is it a vector per row, can its storage be read."""

from __future__ import annotations

import math
import os
from pathlib import Path

from penstock_sampler.checks.findings import Findings
from penstock_sampler.sources.column import Column
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

__all__ = [
    "MAX_ROWS",
    "check_storage",
    "check_vector",
    "find_dataset",
    "is_single_column",
]

MAX_ROWS = 2**31 - 1
"""Rows of one file; an episode's length is an int32."""
_MAX_WIDTH = 16_384
_MAX_CHUNK_BYTES = 1 << 30
"""HDF5 decodes whole chunks, so a chunk bounds the memory of one read."""
_LISTED = 12


def find_dataset(
    file: Hdf5File, check: str, accepted: tuple[str, ...], findings: Findings, camera: str = ""
) -> Column | None:
    """The first dataset of ``accepted`` that exists; None with a fault when none does."""
    there = [path for path in accepted if file.has(path)]
    if not there:
        group = accepted[0].rpartition("/")[0]
        place = f"{group}/" if group else "the root"
        names = sorted(file.names(group))
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        looked = ", ".join(path.rpartition("/")[2] for path in accepted)
        what = f"no {camera} camera" if camera else f"no {looked}"
        findings.fail(
            check,
            f"{what}: looked for {looked} in {place}, which has {listed or 'nothing'}",
            remedy=(
                "rename the dataset, or list the cameras this robot has in the setting cameras "
                f"(--cameras or PENSTOCK_CAMERAS, for example {camera}=its_dataset_name)"
                if camera
                else "write it, or rename the dataset that holds it"
            ),
            reason="MISSING_KEY",
            dataset=accepted[0],
        )
        return None
    path = there[0]
    try:
        found = file.find(path)
    except HDF5_ERRORS as error:
        findings.fail(
            check,
            f"{path} is a link that leads nowhere ({error})",
            remedy="copy the file it points to as well",
            reason="MISSING_KEY",
            dataset=path,
        )
        return None
    if found is None:
        findings.fail(
            check,
            f"{path} is a group: expected a dataset",
            remedy="write the rows as one array",
            reason="WRONG_RANK",
            dataset=path,
        )
        return None
    if len(there) > 1:
        findings.warn(
            check,
            f"{' and '.join(there)} are both there: {path} is used",
            remedy=f"name the one you want: cameras={camera}={path.rpartition('/')[2]}",
            reason="AMBIGUOUS_NAME",
            dataset=path,
        )
    return found


def check_vector(column: Column, kinds: str, findings: Findings) -> bool:
    """Whether it is ``(rows, width)`` of a dtype whose kind is in ``kinds``."""
    path = column.path
    if len(column.shape) != 2 or column.shape[1] < 1:  # noqa: PLR2004 - rows and width
        findings.fail(
            path,
            f"{path} has shape {column.shape}: expected (rows, width)",
            remedy="write one vector a row, (N, 1) for a single number",
            reason="WRONG_RANK",
            dataset=path,
        )
        return False
    if column.dtype.kind not in kinds:
        findings.fail(
            path,
            f"{path} has dtype {column.dtype}: expected float32 or other numbers",
            remedy="write it as float32",
            reason="WRONG_DTYPE",
            dataset=path,
        )
        return False
    if column.shape[1] > _MAX_WIDTH:
        findings.fail(
            path,
            f"{path} has width {column.shape[1]}: at most {_MAX_WIDTH} is served",
            remedy="write images as images",
            reason="TOO_LARGE",
            dataset=path,
        )
        return False
    findings.ok(path, column.described, dataset=path)
    return True


def is_single_column(column: Column) -> bool:
    """Whether it is ``(rows,)`` or ``(rows, 1)``."""
    shape = column.shape
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)  # noqa: PLR2004


def check_storage(column: Column, check: str, findings: Findings) -> bool:
    """Whether something was written, chunks have a sane size, and virtual sources exist."""
    path = column.path
    item_bytes: int = column.dtype.itemsize
    if column.chunks and math.prod(column.chunks) * item_bytes > _MAX_CHUNK_BYTES:
        findings.fail(
            check,
            f"{path} has chunks of {math.prod(column.chunks) * item_bytes} bytes: at most "
            f"{_MAX_CHUNK_BYTES} is read at once",
            remedy="rewrite it with one row a chunk (h5repack -l CHUNK=...)",
            reason="TOO_LARGE",
            dataset=path,
        )
        return False
    if column.is_virtual:
        folder = Path(os.fsdecode(column.file_name)).parent
        sources = {str(source.file_name) for source in column.full().virtual_sources()}
        missing = sorted(name for name in sources - {"."} if not (folder / name).exists())
        if missing:
            # HDF5 would give fill values for them without a word.
            findings.fail(
                check,
                f"{path} is virtual and its source {missing[0]} is missing "
                f"({len(missing)} of {len(sources)})",
                remedy="copy the sources beside the file",
                reason="MISSING_SOURCE",
                dataset=path,
            )
            return False
    elif math.prod(column.shape) and column.handle.get_storage_size() == 0:
        findings.fail(
            check,
            f"{path} has shape {column.shape} but nothing was ever written to it",
            remedy="record it again",
            reason="NEVER_WRITTEN",
            dataset=path,
        )
        return False
    return True
