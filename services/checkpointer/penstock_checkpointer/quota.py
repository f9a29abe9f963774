"""Quotas: how much one run, and the whole store, may hold."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.checkpoints import UploadRequest
from penstock.errors import LimitExceeded
from penstock_checkpointer.catalog import Catalog, Upload

__all__ = ["check_quotas"]


def check_quotas(
    catalog: Catalog,
    request: UploadRequest,
    others: Iterable[Upload],
    *,
    run_bytes: int,
    store_bytes: int,
) -> None:
    """Refuse an upload that would take a run or the store beyond its quota.

    Args:
        catalog: Says what is stored.
        request: The upload.
        others: All other open uploads. Their whole size counts, whatever of it has arrived, but
            for those of writers that were taken over from: they can never be committed.
        run_bytes: What a run may hold; 0 for no quota.
        store_bytes: What the store may hold; 0 for no quota.

    Raises:
        LimitExceeded: It would.
    """
    others = [u for u in others if u.fencing_token >= catalog.fencing_token(u.run)]
    replaced = catalog.checkpoint(request.run, request.step)
    freed = 0 if replaced is None else replaced.size_bytes
    of_run = [upload for upload in others if upload.run == request.run]
    if run_bytes:
        stored = catalog.stored_bytes(request.run) - freed
        _check(request, f"run {request.run!r}", stored, of_run, run_bytes, "--max-run-bytes")
    if store_bytes:
        stored = catalog.stored_bytes() - freed
        _check(request, "the store", stored, others, store_bytes, "--max-store-bytes")


def _check(
    request: UploadRequest, holder: str, stored: int, others: list[Upload], limit: int, flag: str
) -> None:
    size, promised = request.digest.size_bytes, sum(u.digest.size_bytes for u in others)
    if stored + promised + size > limit:
        raise LimitExceeded(
            f"{request.run}/{request.step} has {size} bytes; {holder} holds {stored} and "
            f"{promised} are promised to other uploads, of at most {limit}: delete checkpoints, "
            f"collect what no rule keeps, or raise {flag} of the checkpointer",
            reason="QUOTA",
            metadata={
                "run": request.run,
                "size_bytes": str(size),
                "stored_bytes": str(stored),
                "promised_bytes": str(promised),
                "limit_bytes": str(limit),
            },
        )
