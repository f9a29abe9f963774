"""What it means when an object store refuses, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from penstock.errors import Internal, PenstockError, Unavailable

__all__ = ["named_faults"]

_NO_BUCKET = ("NoSuchBucket",)
# 169.254.169.254 is asked for credentials when none are given.
_REFUSED = (
    *("401 Unauthorized", "403 Forbidden", "AccessDenied", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "169.254.169.254", "lacked valid authentication"),
)
_AWAY = (
    *("error sending request", "timed out", "timeout", "connection closed", "error decoding"),
    *(" 500 ", " 502 ", " 503 ", " 504 ", " 429 ", "SlowDown"),
)
_BUILDER = ("builder error",)


@contextmanager
def named_faults(url: str, doing: str) -> Generator[None]:
    """Raise the errors of obstore as those of Penstock, with the bucket and the way out.

    Args:
        url: Of the object store.
        doing: What was tried, e.g. ``"putting run-a/100"``.

    Raises:
        FileNotFoundError: There is no such object.
        Unavailable: There is no such bucket, the credentials do not open it, or nobody answers.
            Clients wait while an operator mends it.
        Internal: Anything else.
    """
    try:
        yield
    except PenstockError:
        raise
    except FileNotFoundError as error:
        if any(mark in str(error) for mark in _NO_BUCKET):
            raise _fault(url, doing, str(error)) from error
        raise
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        raise _fault(url, doing, str(error)) from error


def _fault(url: str, doing: str, text: str) -> PenstockError:
    # Behind the first line comes a dump of obstore's own structures.
    short = text.partition("\n\nDebug source:")[0].replace("\n", " ")[:400]
    place = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"

    def has(marks: tuple[str, ...]) -> bool:
        return any(mark in short for mark in marks)

    if has(_NO_BUCKET):
        return Unavailable(
            f"{url}: {doing}: there is no such bucket at {place}: create it, or correct "
            "--object-store or AWS_ENDPOINT_URL of the checkpointer",
            reason="OBJECT_STORE_BUCKET",
        )
    if has(_REFUSED):
        return Unavailable(
            f"{url}: {doing}: {place} does not accept the credentials: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY of the checkpointer to ones that may list, read, write and "
            f"delete there ({short})",
            reason="OBJECT_STORE_CREDENTIALS",
        )
    if has(_BUILDER):
        return Unavailable(
            f"{url}: {doing}: the endpoint {place} cannot be used: set AWS_ENDPOINT_URL to "
            f"http://host:port or https://host ({short})",
            reason="OBJECT_STORE_ENDPOINT",
        )
    if has(_AWAY):
        return Unavailable(
            f"{url}: {doing}: {place} does not answer: is it up, and AWS_ENDPOINT_URL right? What "
            f"was acknowledged is kept; try again ({short})",
            reason="OBJECT_STORE_AWAY",
        )
    return Internal(f"{url}: {doing}: {place} answers: {short}", reason="OBJECT_STORE")
