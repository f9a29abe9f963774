"""One batch from many replicas: parts in flight, late ones hedged, failed ones asked for again.

The thread that wants the batch coordinates; other threads each run one call and decode what comes.
A row is claimed under the fleet's lock before anything is written to it, and nothing is claimed
after the batch has been given out. So whatever answers late, or twice, touches nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch
from penstock.client.channel import let_go
from penstock.client.errors import translated_errors
from penstock.client.messages import ACCEPTED_CODECS
from penstock.client.part_messages import part_into_rows
from penstock.client.sampler.calls import CALLS_IN_FLIGHT, Call, Fetching
from penstock.client.sampler.received import Received
from penstock.client.sampler.replica import Replica, State
from penstock.client.sampler.routing import Load, Part, next_part, part_rows
from penstock.errors import (
    Cancelled,
    Conflict,
    Corrupt,
    DataFault,
    Internal,
    NotFound,
    PenstockError,
    TimedOut,
    Unavailable,
)
from penstock.v1 import sampler_pb2 as pb

__all__ = ["BatchFetch", "OnLost"]

OnLost = Literal["wait", "fail", "skip"]
"""What to do with rows that nobody who answers holds."""

_BUSY_S = 0.1
_TICK_S = 0.25
_MAX_CONFLICTS = 8


class BatchFetch:
    """Fills a batch.

    Args:
        shared: Threads and bounds.
        ids: ``(n,) int64``, ids of the union.
        out: A batch of ``n`` rows, contiguous.
        rows: ``(n,) bool``: which of them to bring; the others are not touched.
        with_frames: False to bring the columns alone.
        retry_s: Seconds to wait for a holder when there is none that answers.
        on_lost: What to do then: ``wait`` that long, ``fail`` at once, or ``skip`` the rows.
        stopped: Whether nobody wants the batch any more; asked now and then.
    """

    def __init__(
        self,
        shared: Fetching,
        ids: NDArray[np.int64],
        out: Batch,
        *,
        rows: NDArray[np.bool_],
        with_frames: bool = True,
        retry_s: float,
        on_lost: OnLost = "wait",
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        union = shared.fleet.union
        if union is None:
            raise Internal("rows are fetched before the dataset was opened")
        self._shared, self._fleet, self._union = shared, shared.fleet, union
        self._changed: threading.Condition = shared.fleet.changed
        self._ids, self._out, self._with_frames = ids, out, with_frames
        self._retry_s, self._on_lost, self._stopped = retry_s, on_lost, stopped
        self._files = union.files_of(ids)
        count = len(ids)
        self._turn = next(shared.turns)
        self._claimed, self._done = ~rows, ~rows
        self._skipped = np.zeros(count, np.bool_)
        self._alone = np.zeros(count, np.bool_)
        # How many calls that are not stalled are to bring a row.
        self._asked = np.zeros(count, np.int64)
        self._in_flight: list[Call] = []
        self._decoding = 0
        self._closed = False
        self._fatal: BaseException | None = None
        self._faults: dict[tuple[Replica, int], PenstockError] = {}
        self._conflicts = 0
        self._lost_since: float | None = None
        # Columns are so small that a second call costs more than it saves.
        self._part_rows, self._row_bytes = count, 0
        if count and with_frames:
            self._row_bytes = out.frames[0].nbytes
            live = sum(map(_is_usable, self._fleet.replicas))
            self._part_rows = part_rows(int(rows.sum()), live)
        height, width = out.frames.shape[3:5]
        self._spec = pb.FrameSpec(height_px=height, width_px=width)

    def run(self) -> NDArray[np.bool_]:
        """Bring the rows; returns where none is missing, ``(n,) bool``: false for rows skipped.

        Raises:
            Unavailable: No holder of a file answered for ``retry_s`` seconds; names both.
            DataFault: No holder can read a file; names it.
            Cancelled: The client was closed, or nobody wants the batch any more.
        """
        with self._changed:
            try:
                while not (self._done | self._skipped).all():
                    if self._fatal is not None:
                        raise self._fatal
                    if self._fleet.closed or self._stopped():
                        raise Cancelled("the sampler was closed while a batch was on its way")
                    now = time.monotonic()
                    self._watch_calls(now)
                    while self._start_call(now):
                        pass
                    self._mind_lost_rows(now)
                    self._changed.wait(self._wait_s(now))
                # A replica whose rows others brought is known as away from now on.
                self._watch_calls(time.monotonic())
            finally:
                self._closed = True
                for call in self._in_flight:
                    self._cancel(call)
                # What has been claimed is being decoded, which takes no longer than its memory.
                while self._decoding:
                    self._changed.wait()
                # Errors of calls lead to this object, and some are kept for long: the memory of the
                # batch must not be kept with them.
                del self._out
        return self._done

    def _wait_s(self, now: float) -> float:
        waiting = [c.moved for c in self._in_flight if not c.stalled and not c.decoding]
        if not waiting:
            return _TICK_S
        return max(0.005, min(_TICK_S, min(waiting) + self._shared.patience_s - now))

    def _watch_calls(self, now: float) -> None:
        for call in self._in_flight:
            if call.given_up or call.decoding:
                continue
            idle_s = now - call.moved
            if self._claimed[call.rows].all():
                # Others were faster. A replica that still brings nothing has to show first that it
                # is there.
                if call.stalled and idle_s > self._shared.patience_s:
                    self._fleet.failed(call.replica, _no_progress(call, idle_s))
                self._cancel(call)
            elif idle_s > self._shared.give_up_s:
                self._fleet.failed(call.replica, _no_progress(call, idle_s))
                self._cancel(call)
            elif not call.stalled and idle_s > self._shared.patience_s:
                self._set_stalled(call)

    def _set_stalled(self, call: Call) -> None:
        """Let others be asked for what a call has not brought."""
        call.stalled = True
        call.replica.stalled += 1
        self._shared.calls -= 1
        self._asked[call.rows] -= 1
        missing = self._files[call.rows[~self._claimed[call.rows]]]
        others = [r for r in self._fleet.replicas if r is not call.replica and _is_usable(r)]
        if any(_holds(other, file) for other in others for file in np.unique(missing).tolist()):
            self._shared.transfer.add(hedges=1)

    def _start_call(self, now: float) -> bool:
        if self._shared.calls >= CALLS_IN_FLIGHT:
            return False
        todo = np.flatnonzero(~self._claimed & ~self._skipped & (self._asked == 0))
        if not len(todo):
            return False
        replicas, loads = self._candidates(now)
        if not any(load.free for load in loads):
            return False
        may = self._may(todo, replicas)
        part = next_part(self._files[todo], may, self._alone[todo], loads, self._part_rows)
        if part is None:
            return False
        self._issue(replicas[part.replica], Part(part.replica, todo[part.rows]).rows, now)
        return True

    def _candidates(self, now: float) -> tuple[list[Replica], list[Load]]:
        """Replicas and how busy they are; of equals the first one is asked first."""
        replicas = [r for r in self._fleet.replicas if r.holding is not None]
        if self._with_frames or not replicas:
            return replicas, [replica.load(now) for replica in replicas]
        # All of them bring columns at once, whatever their pace is with frames: they take turns.
        first = self._turn % len(replicas)
        replicas = replicas[first:] + replicas[:first]
        return replicas, [replace(replica.load(now), rows_per_s=0.0) for replica in replicas]

    def _may(self, rows: NDArray[np.int64], replicas: list[Replica]) -> NDArray[np.bool_]:
        """Whether each replica may be asked for each row, ``(n, R) bool``."""
        files = self._files[rows]
        may = np.zeros((len(rows), len(replicas)), np.bool_)
        for place, replica in enumerate(replicas):
            if replica.holding is None or replica.state is not State.LIVE:
                continue
            may[:, place] = replica.holding.first_local[files] >= 0
            for faulty, file in self._faults:
                if faulty is replica:
                    may[files == file, place] = False
            for call in self._in_flight:
                if call.replica is replica:
                    may[np.isin(rows, call.rows), place] = False
        return may

    def _issue(self, replica: Replica, rows: NDArray[np.int64], now: float) -> None:
        holding = replica.holding
        if holding is None:
            raise Internal(f"{replica.name} is asked for rows that it does not hold")
        files = self._files[rows]
        local = holding.first_local[files] + self._ids[rows] - self._union.first_transition[files]
        if replica.described is not None:
            rows, local = rows[: replica.described.max_ids], local[: replica.described.max_ids]
        # Columns are small: a second connection would cost more than it saves.
        direct = replica.direct if self._row_bytes else None
        call = Call(replica, replica.connection, direct, holding.version, rows, local, now, now)
        self._in_flight.append(call)
        self._asked[rows] += 1
        self._shared.calls += 1
        replica.calls += 1
        call.connection.use()
        self._shared.threads.submit(partial(self._run_call, call))

    def _run_call(self, call: Call) -> None:
        error: BaseException | None = None
        try:
            request = pb.FetchRequest(
                dataset_version=call.version,
                transition_ids=call.local_ids.tolist(),
                frame_spec=self._spec,
                accepted_codecs=ACCEPTED_CODECS,
                without_frames=not self._with_frames,
            )
            with translated_errors(call.replica.name):
                fetch, direct = call.connection.fetch, call.direct
                stream = fetch(request) if direct is None else direct.fetch(request, fetch)
                with self._changed:
                    call.stream = stream
                    if call.given_up:
                        stream.cancel()
                for received in stream:
                    self._accept(call, received)
            if call.brought != len(call.rows) and not call.given_up:
                error = Unavailable(
                    f"{call.replica.name}: the stream ended after {call.brought} of "
                    f"{len(call.rows)} rows"
                )
        except BaseException as raised:  # noqa: BLE001 - the thread that wants the batch raises it
            error = raised
            if call.stream is not None:
                let_go(call.stream)
        with self._changed:
            self._end(call, error)
            self._changed.notify_all()
        call.connection.leave()

    def _accept(self, call: Call, received: Received) -> None:
        """Decode a message into the rows that nobody else has brought yet."""
        part = received.part
        start, stop = call.brought, call.brought + part.rows
        if part.first_row != start or not start < stop <= len(call.rows):
            raise Corrupt(
                f"{call.replica.name}: a part with rows {part.first_row} to "
                f"{part.first_row + part.rows} arrives, expected row {start} and at most "
                f"{len(call.rows)} rows"
            )
        rows, ids = call.rows[start:stop], call.local_ids[start:stop]
        with self._changed:
            now = time.monotonic()
            if self._closed:
                return
            self._shared.note_gap(now - call.moved)
            call.moved = now
            mine = ~self._claimed[rows]
            if mine.any():
                self._claimed[rows[mine]] = True
                self._decoding += 1
                call.decoding = True
        taken = rows[mine]
        ok = not len(taken)
        try:
            if not ok:
                self._decode(received, rows, ids, mine)
                ok = True
        finally:
            with self._changed:
                if len(taken):
                    call.decoding = False
                    call.moved = time.monotonic()
                    self._decoding -= 1
                (self._done if ok else self._claimed)[taken] = ok
                if ok:
                    self._note_part(call, stop, len(taken), received)
                # Who waits is not woken for every message: when a call, the batch, or what was
                # still being decoded at its end is finished.
                finished = stop == len(call.rows) or self._done.all()
                if finished or not ok or (self._closed and not self._decoding):
                    self._changed.notify_all()

    def _note_part(self, call: Call, stop: int, taken: int, received: Received) -> None:
        """Take the rows up to ``stop`` into the books, of which ``taken`` were wanted."""
        late = stop - call.brought - taken
        call.brought = stop
        wire_bytes = len(received.data)
        if received.direct:
            self._shared.transfer.add(direct_bytes=wire_bytes)
        self._shared.transfer.add_rows(
            call.replica.name, taken, wire_bytes, taken * self._row_bytes
        )
        if late:
            self._shared.transfer.add(duplicate_rows=late)
        if stop == len(call.rows):
            # Only the end of the stream is missing, for which no batch waits and which nobody cuts
            # short: the server would take it for a client that went away.
            self._end(call, None)

    def _decode(
        self,
        received: Received,
        rows: NDArray[np.int64],
        ids: NDArray[np.int64],
        mine: NDArray[np.bool_],
    ) -> None:
        decode = partial(
            part_into_rows, received.part, with_frames=self._with_frames, data=received.data
        )
        if mine.all():
            decode(self._out, rows, ids)
            return
        # Another replica cut its parts elsewhere and has brought some of these rows.
        scratch = self._out.like(len(rows))
        decode(scratch, np.arange(len(rows)), ids)
        if self._with_frames:
            self._out.frames[rows[mine]] = scratch.frames[mine]
        for name, values in self._out.columns.items():
            values[rows[mine]] = scratch.columns[name][mine]

    def _cancel(self, call: Call) -> None:
        if not call.given_up:
            call.given_up = True
            if call.stream is not None:
                call.stream.cancel()

    def _end(self, call: Call, error: BaseException | None) -> None:
        """Take a call out of the books, once, and decide what its error means."""
        if call.ended:
            return
        call.ended = True
        now = time.monotonic()
        self._in_flight.remove(call)
        call.replica.calls -= 1
        if call.stalled:
            call.replica.stalled -= 1
        else:
            self._shared.calls -= 1
            self._asked[call.rows] -= 1
        if call.brought and self._with_frames:
            call.replica.note_rate(call.brought, now - call.begun)
        if error is None or self._closed or call.given_up:
            return
        self._judge(call, error, now)

    def _judge(self, call: Call, error: BaseException, now: float) -> None:
        transfer, replica = self._shared.transfer, call.replica
        if isinstance(error, Unavailable) and (error.retry_after_s or error.reason == "BUSY"):
            replica.rests_until = now + (error.retry_after_s or _BUSY_S)
            transfer.add(retries=1)
        elif isinstance(error, (Unavailable, TimedOut, Cancelled)):
            if call.connection is replica.connection:
                self._fleet.failed(replica, error)
            transfer.add(retries=1, reissues=1)
        elif isinstance(error, (Conflict, NotFound)):
            self._conflicts += 1
            if self._conflicts > _MAX_CONFLICTS:
                self._fault(call, error)
            else:
                self._fleet.outdated(replica, error)
            transfer.add(retries=1, reissues=1)
        elif isinstance(error, (DataFault, Corrupt, Internal)):
            self._fault(call, error)
            transfer.add(retries=1, reissues=1)
        else:
            self._fatal = error

    def _fault(self, call: Call, error: PenstockError) -> None:
        """A replica cannot bring a file: others may, and it may bring other files."""
        missing = call.rows[~self._claimed[call.rows]]
        files = np.unique(self._files[missing]).tolist()
        if len(files) > 1:
            # Which file it is shows when they are asked for one by one.
            self._alone[missing] = True
            return
        for file in files:
            self._faults[call.replica, file] = error

    def _mind_lost_rows(self, now: float) -> None:
        """Apply the policy to rows that nobody is asked for and nobody can be asked for."""
        todo = np.flatnonzero(~self._claimed & ~self._skipped & (self._asked == 0))
        for call in self._in_flight:
            todo = todo[~np.isin(todo, call.rows)]
        lost: list[int] = []
        for file in np.unique(self._files[todo]).tolist():
            holders = [r for r in self._fleet.replicas if _holds(r, file)]
            able = [r for r in holders if (r, file) not in self._faults]
            if holders and not able:
                raise self._faults[holders[0], file]
            hoping = self._on_lost != "wait"
            if not any(_is_usable(r) or (hoping and _is_hoped_for(r)) for r in able):
                lost.append(file)
        if not lost:
            self._lost_since = None
            return
        if self._lost_since is None:
            self._lost_since = now
        if self._on_lost == "skip":
            rows = todo[np.isin(self._files[todo], lost)]
            self._skipped[rows] = True
            self._shared.transfer.add(skipped_rows=len(rows))
        elif self._on_lost == "fail" or now - self._lost_since >= self._retry_s:
            raise self._nobody_holds(lost)

    def _nobody_holds(self, files: list[int]) -> Unavailable:
        named = ", ".join(self._union.info.files[file].file_id for file in files[:3])
        more = f" and {len(files) - 3} more files" if len(files) > 3 else ""  # noqa: PLR2004
        replicas = "; ".join(
            f"{r.name} ({r.error or ('does not hold it' if _is_usable(r) else 'is away')})"
            for r in self._fleet.replicas
        )
        return Unavailable(
            f"{self._fleet.target}: no replica that answers holds {named}{more}: {replicas}: start "
            "one that does, or open with on_lost='skip' to go on without",
            reason="NO_HOLDER",
            metadata={"file": self._union.info.files[files[0]].file_id},
        )


def _holds(replica: Replica, file: int) -> bool:
    return replica.holding is not None and bool(replica.holding.first_local[file] >= 0)


def _is_usable(replica: Replica) -> bool:
    return replica.state is State.LIVE


def _is_hoped_for(replica: Replica) -> bool:
    """Whether a replica that failed has not been asked again yet."""
    return replica.state is State.ASKING and not replica.asked_again


def _no_progress(call: Call, idle_s: float) -> TimedOut:
    return TimedOut(f"{call.replica.name} has sent nothing for {idle_s:.1f} s")
