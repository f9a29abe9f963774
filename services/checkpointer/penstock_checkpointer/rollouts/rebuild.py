"""Bringing catalogue and files together: at every start, and after a process died in a commit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import structlog

from penstock.chunks import Digest
from penstock.disk import sync_directory
from penstock.errors import Corrupt, LimitExceeded
from penstock.rollout_file import verify
from penstock.streams import RolloutInfo, StreamSettings
from penstock_checkpointer.rollouts.catalog import RolloutCatalog
from penstock_checkpointer.rollouts.layout import FileName, RolloutLayout, StreamNote
from penstock_checkpointer.rollouts.pushes import Pushes
from penstock_checkpointer.rollouts.removal import Removal

__all__ = ["Rebuild"]

log = structlog.get_logger(__name__)


class Rebuild:
    """Lists files that have no row, forgets rows that have no file. Methods need a transaction.

    A file stands in a stream only after it was verified and synced, so one without a row was
    committed but for its row.

    Args:
        layout: Where the files are.
        catalog: Their rows.
        pushes: Rows of pushes.
        removal: Forgets rows.
        counts: Counts what happens, by name.
    """

    def __init__(
        self,
        layout: RolloutLayout,
        catalog: RolloutCatalog,
        pushes: Pushes,
        removal: Removal,
        counts: Counter[str],
    ) -> None:
        self._layout, self._catalog = layout, catalog
        self._pushes, self._removal, self._counts = pushes, removal, counts

    def all_streams(self) -> None:
        """Every stream, as at a start."""
        for path in self._layout.foreign():
            log.warning("foreign file left alone", path=str(path))
            self._counts["foreign_files"] += 1
        for name in sorted({*self._layout.streams(), *(s.name for s in self._catalog.streams())}):
            self.stream(name)
        self._layout.forget_publishing()

    def stream(self, name: str) -> None:
        """One stream."""
        self._find_stream(name)
        known, standing = self._catalog.sequences(name), self._layout.files(name)
        self._finish_deleting(name, standing)
        for sequence in sorted(known):
            if standing.get(sequence) != FileName.of(known[sequence]):
                self._removal.forget(known[sequence])
        for sequence in sorted(standing):
            if sequence not in known:
                self._adopt(name, standing[sequence])

    def after_a_death(self) -> None:
        """List what another process was publishing when it died, if one did."""
        try:
            said = self._layout.publishing()
        except (ValueError, KeyError, TypeError):
            self.all_streams()
            return
        if said is None:
            return
        name, file = said
        if file.sequence in self._catalog.deleted(name):
            # Who deletes it removes the file in this moment, or the next start does.
            return
        # Without the file it had not come to the rename, and the push may go on.
        if self._catalog.rollout(name, file.sequence) is None and self._layout.stands(name, file):
            self._find_stream(name)
            self._adopt(name, file)

    def _find_stream(self, name: str) -> None:
        if self._catalog.stream(name) is None:
            note = self._layout.note(name) or StreamNote(StreamSettings(), 1)
            # Sequences up to there may have been given and removed since.
            row = self._catalog.make_stream(name, note.sequences_below)
            self._catalog.put_stream(replace(row, settings=note.settings))

    def _finish_deleting(self, stream: str, standing: dict[int, FileName]) -> None:
        """Remove what was deleted but for its file, as a process died in between."""
        deleted = self._catalog.deleted(stream)
        for sequence in deleted & standing.keys():
            log.info("file of a deleted rollout removed", stream=stream, sequence=sequence)
            path = self._layout.stream(stream) / str(standing.pop(sequence))
            path.unlink(missing_ok=True)
        if deleted and self._layout.stream(stream).is_dir():
            sync_directory(self._layout.stream(stream))
        for sequence in deleted:
            self._catalog.forget_deleted(stream, sequence)

    def _adopt(self, stream: str, name: FileName) -> None:
        info = self._read(stream, name)
        if info is None:
            return
        key = stream, info.producer, info.iteration
        removed, other = self._catalog.removed(*key), self._catalog.of_iteration(*key)
        if removed is not None and removed.sequence == info.sequence:
            # Its removal was not on disk yet when the power went.
            log.info("removed rollout came back, removed again", rollout=str(info))
            self._layout.content(info).unlink(missing_ok=True)
            return
        if other is not None:
            log.warning(
                "file of an iteration that is stored left alone",
                path=str(self._layout.content(info)),
                sequence=other.sequence,
            )
            self._counts["foreign_files"] += 1
            return
        log.warning("rollout adopted that the catalogue did not know", rollout=str(info))
        self._counts["adopted"] += 1
        row = self._catalog.known_stream(stream)
        if info.sequence >= row.sequences_below:
            self._catalog.put_stream(replace(row, sequences_below=info.sequence + 1))
        sync_directory(self._layout.stream(stream))
        self._catalog.add_rollout(info)
        for push in self._pushes.under_way(stream):
            same = (push.request.producer, push.request.iteration) == key[1:]
            if same and not self._layout.part(push.request.push_id).exists():
                self._pushes.finish(push.request.push_id, info.sequence, was_stored=False)

    def _read(self, stream: str, name: FileName) -> RolloutInfo | None:
        path = self._layout.stream(stream) / str(name)
        try:
            with path.open("rb") as file:
                index = verify(file)
        except (Corrupt, LimitExceeded) as error:
            self._counts["damaged_skipped"] += 1
            log.warning("damaged file left out", path=str(path), error=error.message)
            return None
        return RolloutInfo(
            stream=stream,
            sequence=name.sequence,
            producer=name.producer,
            iteration=name.iteration,
            policy_version=name.policy_version,
            envs=index.envs,
            steps=index.steps,
            raw_size_bytes=index.raw_size_bytes,
            digest=Digest.of_file(path),
            created_unix_ms=path.stat().st_mtime_ns // 1_000_000,
        )
