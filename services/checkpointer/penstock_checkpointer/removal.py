"""Removing checkpoints, one by one or by a retention policy, and never one that is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from penstock.checkpoints import CheckpointInfo, check_run, check_step
from penstock.errors import DataFault, InvalidInput, NotFound, PenstockError
from penstock.failpoints import failpoint
from penstock.retention import Collected, RetentionPolicy, plan_retention
from penstock_checkpointer.catalog import Catalog
from penstock_checkpointer.lookup import Lookup

__all__ = ["Removal"]

log = structlog.get_logger(__name__)


class Removal:
    """Removes checkpoints of one store. Safe among threads and processes.

    Args:
        catalog: Of the store.
        lookup: Of the store.
        remove_files: Removes content and note of a checkpoint, durably.
        policy: Applied after each commit, and where none is given; None for none.
        counts: Counts what happens, by name.
    """

    def __init__(
        self,
        catalog: Catalog,
        lookup: Lookup,
        remove_files: Callable[[CheckpointInfo], None],
        policy: RetentionPolicy | None,
        counts: Counter[str],
    ) -> None:
        self._catalog, self._lookup, self._remove_files = catalog, lookup, remove_files
        self._policy, self._counts = policy or None, counts

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint and the tags on it.

        Raises:
            NotFound: There is none.
            DataFault: It is pinned, or others refer to it.
        """
        with self._catalog.transaction():
            info = self._catalog.checkpoint(check_run(run), check_step(step))
            if info is None:
                raise NotFound(f"run {run!r} has no step {step}: {self._lookup.what_there_is(run)}")
            if info.pinned:
                raise DataFault(
                    f"{run}/{step} is pinned: unpin it first, then delete it", reason="PINNED"
                )
            dependents = self._catalog.dependents(run, step)
            if dependents:
                steps = ", ".join(map(str, dependents))
                raise DataFault(
                    f"{run}/{step} is the base of the steps {steps}, which cannot be read without "
                    "it: delete those first",
                    reason="BASE_IN_USE",
                    metadata={"steps": steps},
                )
            self._remove(info)
        failpoint("server.delete.before_answer")
        self._counts["checkpoints_deleted"] += 1

    def collect(
        self, run: str | None, policy: RetentionPolicy | None, *, dry_run: bool
    ) -> Collected:
        """Remove what a policy does not keep, or say what that would be.

        What is pinned, tagged or referred to between the decision and its turn stays.

        Args:
            run: Name of a run, or None for all.
            policy: None for the store's own.
            dry_run: Remove nothing.

        Raises:
            NotFound: No such run.
            InvalidInput: The policy keeps nothing, or there is none.
        """
        policy = self._policy if policy is None else policy
        if policy is None:
            raise InvalidInput(
                "the store has no retention policy of its own: give one, or start the checkpointer "
                "with --keep-last, --keep-every or --keep-best",
                field="policy",
            )
        if run is not None and not self._catalog.checkpoints(check_run(run)):
            raise NotFound(f"there is no run {run!r}: {self._lookup.what_there_is(run)}")
        names = [found.name for found in self._catalog.runs()] if run is None else [run]
        # An empty policy is refused even where there is nothing to keep.
        plan_retention((), policy)
        parts = [self._collect(name, policy, {}, dry_run=dry_run) for name in names]
        return Collected(
            tuple(info for part in parts for info in part.removed),
            tuple(kept for part in parts for kept in part.kept),
        )

    def after_commit(self, info: CheckpointInfo) -> None:
        """Apply the store's own policy to a run that has a new checkpoint, which itself stays.

        The commit has succeeded whatever happens here: failures are logged and counted.
        """
        if self._policy is None:
            return
        try:
            self._collect(info.run, self._policy, {info.step: "just saved"}, dry_run=False)
        except (PenstockError, OSError):
            self._counts["retention_failures"] += 1
            log.exception("retention failed, nothing more is removed now", run=info.run)

    def _collect(
        self, run: str, policy: RetentionPolicy, also: Mapping[int, str], *, dry_run: bool
    ) -> Collected:
        checkpoints = self._catalog.checkpoints(run)
        kept = dict(plan_retention(checkpoints, policy, also=also))
        unkept = [info for info in checkpoints if info.step not in kept]
        if dry_run:
            removed = unkept
        else:
            removed = []
            # Those that refer to others go first: no crash leaves one without its base.
            for info in sorted(unkept, key=lambda info: info.base_step is None):
                outcome = self._remove_unkept(info)
                if outcome == "removed":
                    removed.append(info)
                elif outcome:
                    kept[info.step] = (outcome,)
            removed.sort(key=lambda info: info.step)
        return Collected(
            tuple(removed), tuple((run, step, reasons) for step, reasons in sorted(kept.items()))
        )

    def _remove_unkept(self, info: CheckpointInfo) -> str:
        """Say ``removed``, or why it stays; nothing if somebody else removed it."""
        with self._catalog.transaction():
            found = self._catalog.checkpoint(info.run, info.step)
            if found is None:
                return ""
            if found.pinned or found.tags or found.digest != info.digest:
                return "changed meanwhile"
            dependents = self._catalog.dependents(info.run, info.step)
            if dependents:
                return f"base of {dependents[0]}"
            self._remove(info)
        self._counts["retention_removed"] += 1
        log.info("checkpoint removed by retention", run=info.run, step=info.step)
        return "removed"

    def _remove(self, info: CheckpointInfo) -> None:
        # The files first: killed after that, the next start drops the row. The other way round it
        # would bring a deleted checkpoint back.
        self._remove_files(info)
        failpoint("server.delete.before_catalog")
        self._catalog.remove_checkpoint(info.run, info.step)
