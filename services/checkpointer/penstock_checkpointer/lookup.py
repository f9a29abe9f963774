"""Finding checkpoints, and telling whether they are intact: the file, and what it refers to."""

from __future__ import annotations

from collections import Counter

import structlog

from penstock.checkpoints import LATEST, CheckpointInfo, check_run, check_step
from penstock.container import BaseRef, Reader
from penstock.errors import Corrupt, DataFault, InvalidInput, LimitExceeded, NotFound, PenstockError
from penstock_checkpointer.catalog import Catalog
from penstock_checkpointer.shelf import Shelf

__all__ = ["Lookup"]

log = structlog.get_logger(__name__)

_DAMAGE = (Corrupt, InvalidInput, LimitExceeded)
"""What reading a damaged file raises; everything else says nothing about the file."""


class Lookup:
    """Answers which checkpoints of a store there are and can be relied on.

    Args:
        shelf: Where the checkpoints are.
        catalog: Of the same store.
        counts: Counts damaged ones that were passed over.
    """

    def __init__(self, shelf: Shelf, catalog: Catalog, counts: Counter[str]) -> None:
        self._shelf, self._catalog, self._counts = shelf, catalog, counts

    def find(self, run: str, which: int | str) -> CheckpointInfo:
        """A step or tag, damaged or not; ``latest`` is the newest intact step.

        Raises:
            NotFound: There is none.
        """
        check_run(run)
        if which == LATEST:
            return self._newest_intact(run)
        step = which if isinstance(which, int) else self._catalog.tagged_step(run, which)
        info = None if step is None else self._catalog.checkpoint(run, check_step(step))
        if info is None:
            what = f"no step {which}" if isinstance(which, int) else f"no tag {which!r:.80}"
            raise NotFound(f"run {run!r} has {what}: {self.what_there_is(run)}")
        return info

    def get(self, run: str, which: int | str) -> CheckpointInfo:
        """The same, intact: marked damaged by no check, size, footer and index as they should be.

        Raises:
            NotFound: There is none.
            Corrupt: The step or tag asked for is damaged, or its base is damaged or gone.
        """
        info = self.find(run, which)
        fault = None if which == LATEST else self.fault_of(info)
        if fault is not None:
            raise fault
        return info

    def fault_of(self, info: CheckpointInfo) -> PenstockError | None:
        """Why a checkpoint is not intact; None if it is."""
        try:
            ref = self._check_file(info)
            if ref is not None:
                self._check_file(self.stored_base(info, ref))
        except _DAMAGE as error:
            return error
        return None

    def stored_base(self, info: CheckpointInfo, ref: BaseRef) -> CheckpointInfo:
        """The checkpoint that a stored one refers to, damaged or not.

        Raises:
            Corrupt: It is gone, or has other content.
        """
        base = self._catalog.checkpoint(info.run, ref.step)
        if base is None or base.digest != ref.digest:
            what = "is gone" if base is None else "has other content now"
            raise Corrupt(
                f"{info.run}/{info.step} refers to step {ref.step}, which {what}: use another step",
                reason="BASE_MISSING",
            )
        return base

    def check_base(self, run: str, step: int, ref: BaseRef, *, files: bool = True) -> None:
        """Accept what a checkpoint that is about to be stored refers to.

        Args:
            run: Of both.
            step: Of the one to be stored.
            ref: The checkpoint it refers to.
            files: Look at its file as well, not in the catalogue alone.

        Raises:
            DataFault: The run has no such step, with that content, that is intact.
            InvalidInput: That step refers to another one itself.
        """
        base = self._catalog.checkpoint(run, ref.step)
        problem = ""
        if base is None:
            problem = "which is not stored"
        elif base.digest != ref.digest:
            problem = f"which has other content ({base.digest}, expected {ref.digest})"
        elif base.base_step is not None:
            raise InvalidInput(
                f"{run}/{step} refers to step {ref.step}, which itself refers to step "
                f"{base.base_step}: save it against step {base.base_step}, or whole",
                field="base_step",
                reason="BASE_NOT_WHOLE",
            )
        else:
            try:
                self._check_mark(base)
                if files:
                    self._check_file(base)
            except _DAMAGE as error:
                problem = f"which is damaged ({error.message})"
        if problem:
            raise DataFault(
                f"{run}/{step} refers to step {ref.step}, {problem}: save it whole",
                reason="BASE_MISSING",
                metadata={"base_step": str(ref.step)},
            )

    def what_there_is(self, run: str) -> str:
        """Steps of a run, or runs of the store, for a message."""
        steps = [info.step for info in self._catalog.checkpoints(run)]
        if steps:
            shown = ", ".join(str(step) for step in steps[-5:])
            return f"it has {len(steps)} checkpoints, the last are {shown}"
        names = [info.name for info in self._catalog.runs()]
        return f"the store has the runs {', '.join(names[:10])}" if names else "the store is empty"

    def _newest_intact(self, run: str) -> CheckpointInfo:
        damaged = 0
        for info in reversed(self._catalog.checkpoints(run)):
            fault = self.fault_of(info)
            if fault is None:
                return info
            damaged += 1
            self._counts["damaged_skipped"] += 1
            log.warning("damaged checkpoint skipped", run=run, step=info.step, error=fault.message)
        skipped = f" intact ({damaged} are damaged)" if damaged else ""
        raise NotFound(f"run {run!r} has no checkpoint{skipped}: {self.what_there_is(run)}")

    def _check_file(self, info: CheckpointInfo) -> BaseRef | None:
        self._check_mark(info)
        try:
            size = self._shelf.size_bytes(info)
            if size != info.size_bytes:
                raise Corrupt(
                    f"{info.run}/{info.step} has {size} bytes where it is stored, "
                    f"{info.size_bytes} were committed: it is damaged, use another step",
                    reason="TRUNCATED",
                )
            with self._shelf.open(info) as file, Reader(file) as reader:
                return reader.index.base
        except FileNotFoundError:
            raise Corrupt(
                f"{info.run}/{info.step}: its content is gone from the store: use another step",
                reason="FILE_GONE",
            ) from None

    def _check_mark(self, info: CheckpointInfo) -> None:
        if info.damaged:
            raise Corrupt(
                f"{info.run}/{info.step} was found damaged when it was last checked: use another "
                "step, or put an intact copy of its file back and verify it",
                reason="DAMAGED",
            )
