"""A weight column of the union, put together from the replicas that hold its files."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from penstock.client.errors import translated_errors
from penstock.client.sampler.fleet import Fleet
from penstock.client.sampler.replica import LIST_S, Connection, Replica, State
from penstock.errors import Cancelled, Conflict, Corrupt, Internal, TimedOut, Unavailable
from penstock.v1 import sampler_pb2 as pb

__all__ = ["fetch_weights"]

_TICK_S = 0.25


def fetch_weights(fleet: Fleet, column: str, retry_s: float) -> NDArray[np.float32]:
    """One weight per transition of the union, ``(transitions,) float32``, read-only.

    Raises:
        NotFound: A replica has no such column; names those it has.
        Unavailable: For ``retry_s`` seconds no replica that answers held a file that is missing.
        Corrupt: What a replica sends is not one finite weight per transition.
    """
    union = fleet.union
    if union is None:
        raise Internal("weights are fetched before the dataset was opened")
    weights = np.zeros(union.info.transitions, np.float32)
    counts = np.diff(union.first_transition)
    missing = counts > 0
    end = time.monotonic() + retry_s
    while missing.any():
        with fleet.changed:
            replica = _best_holder(fleet, missing)
            if replica is None or replica.holding is None or replica.described is None:
                if time.monotonic() >= end or fleet.closed:
                    file = union.info.files[int(np.flatnonzero(missing)[0])].file_id
                    raise Unavailable(
                        f"{fleet.target}: no replica that answers holds {file}, whose weights "
                        f"{column!r} are needed",
                        reason="NO_HOLDER",
                    )
                fleet.changed.wait(_TICK_S)
                continue
            holding, total = replica.holding, replica.described.info.transitions
            connection = replica.connection
            connection.use()
        try:
            found = _download(replica.name, connection, column, holding.version, total)
        except (Unavailable, TimedOut, Cancelled) as error:
            with fleet.changed:
                fleet.failed(replica, error)
            continue
        except Conflict as error:
            with fleet.changed:
                fleet.outdated(replica, error)
            continue
        finally:
            connection.leave()
        for file in np.flatnonzero(missing & (holding.first_local >= 0)).tolist():
            begin, local = int(union.first_transition[file]), int(holding.first_local[file])
            weights[begin : begin + counts[file]] = found[local : local + counts[file]]
            missing[file] = False
    weights.flags.writeable = False
    return weights


def _best_holder(fleet: Fleet, missing: NDArray[np.bool_]) -> Replica | None:
    """The replica that answers and holds most of the files that are missing."""

    def held(replica: Replica) -> int:
        if replica.holding is None or replica.state is not State.LIVE:
            return 0
        return int((missing & (replica.holding.first_local >= 0)).sum())

    best = max(fleet.replicas, key=held, default=None)
    return best if best is not None and held(best) else None


def _download(
    name: str, connection: Connection, column: str, version: str, total: int
) -> NDArray[np.float32]:
    found = np.zeros(total, np.float32)
    at = 0
    for message in _messages(name, connection, column, version):
        part = np.array(message.weights, np.float32)
        if message.first_transition != at or at + len(part) > total:
            raise Corrupt(
                f"{name}: weights {message.first_transition} to "
                f"{message.first_transition + len(part)} arrive, expected {at} to {total}"
            )
        found[at : at + len(part)] = part
        at += len(part)
    if at != total or not np.isfinite(found).all() or (found < 0).any():
        raise Corrupt(
            f"{name}: {at} weights {column!r} arrive for {total} transitions, or one of them is "
            "negative or not finite"
        )
    return found


def _messages(
    name: str, connection: Connection, column: str, version: str
) -> Iterator[pb.ListWeightsResponse]:
    request = pb.ListWeightsRequest(dataset_version=version, column=column)
    with translated_errors(name):
        yield from connection.stub.ListWeights(request, timeout=LIST_S)
