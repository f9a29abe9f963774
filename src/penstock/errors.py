"""The exceptions of Penstock, and the canonical status each one travels as.

    PenstockError
    |-- InvalidInput         INVALID_ARGUMENT     a value a caller can mend: names field and value
    |-- DataFault            FAILED_PRECONDITION  a file that cannot be served or converted
    |-- NotFound             NOT_FOUND            nothing goes by that name
    |-- AlreadyExists        ALREADY_EXISTS       the name is taken by other content
    |-- Conflict             ABORTED              another writer got there first, or data changed
    |-- LimitExceeded        RESOURCE_EXHAUSTED   a stated limit, or a full disk
    |-- Unavailable          UNAVAILABLE          nobody answers there now; a retry may help
    |-- TimedOut             DEADLINE_EXCEEDED    the answer did not come in the time given
    |-- Cancelled            CANCELLED            the caller, or an operator, called it off
    |-- Corrupt              DATA_LOSS            bytes that do not match their checksum or format
    |-- Unauthenticated      UNAUTHENTICATED      no token, or a wrong one
    |-- PermissionDenied     PERMISSION_DENIED    the token does not allow this call
    |-- Unsupported          UNIMPLEMENTED        this version cannot do that
    `-- Internal             INTERNAL             a fault of Penstock itself

Services raise these; the server's interceptor sends code, reason, metadata and field; the client's
interceptor raises the same class again on the other side.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "Conflict",
    "Corrupt",
    "DataFault",
    "Internal",
    "InvalidInput",
    "LimitExceeded",
    "NotFound",
    "PenstockError",
    "PermissionDenied",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "error_for_status",
]


class PenstockError(Exception):
    """Base of everything Penstock raises on purpose.

    Args:
        message: Names the thing, the value and the way out.
        reason: Stable upper-case identifier for programs, e.g. ``ROW_COUNT_MISMATCH``.
        metadata: Machine-readable details, strings to strings (``{"file": ..., "dataset": ...}``).
    """

    status: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self, message: str, *, reason: str = "", metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})

    def __reduce__(self) -> tuple[object, ...]:
        """Keep reason and metadata when an error crosses a process boundary."""
        return _rebuild, (type(self), self.message, self.__dict__)


class InvalidInput(PenstockError):
    """A value the caller can mend; ``field`` is its path, e.g. ``plan.batch_size``."""

    status = "INVALID_ARGUMENT"
    default_reason = "INVALID_INPUT"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.field = field


class DataFault(PenstockError):
    """A file that cannot be used as it is; the message names file, field, value and what to do."""

    status = "FAILED_PRECONDITION"
    default_reason = "BAD_DATA"


class NotFound(PenstockError):
    """Nothing goes by that name."""

    status = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(PenstockError):
    """The name is taken by other content."""

    status = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class Conflict(PenstockError):
    """Another writer got there first, or the data changed meanwhile."""

    status = "ABORTED"
    default_reason = "CONFLICT"


class LimitExceeded(PenstockError):
    """A stated limit was reached: a size, a queue, a quota, the disk.

    ``retry_after_s`` says when a retry may help; 0 where none does.
    """

    status = "RESOURCE_EXHAUSTED"
    default_reason = "LIMIT_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 0.0,
        reason: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_s = retry_after_s


class Unavailable(PenstockError):
    """Nobody answers there now; ``retry_after_s`` says when a retry may help (0: at once)."""

    status = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 0.0,
        reason: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_s = retry_after_s


class TimedOut(PenstockError):
    """The answer did not come in the time given."""

    status = "DEADLINE_EXCEEDED"
    default_reason = "TIMED_OUT"


class Cancelled(PenstockError):
    """The caller, or an operator, called it off."""

    status = "CANCELLED"
    default_reason = "CANCELLED"


class Corrupt(PenstockError):
    """Bytes that do not match their checksum or their format."""

    status = "DATA_LOSS"
    default_reason = "CORRUPT"


class Unauthenticated(PenstockError):
    """No token, or a wrong one."""

    status = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(PenstockError):
    """The token does not allow this call."""

    status = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class Unsupported(PenstockError):
    """This version, or this server, cannot do that."""

    status = "UNIMPLEMENTED"
    default_reason = "UNSUPPORTED"


class Internal(PenstockError):
    """A fault of Penstock itself; the server's log holds the traceback."""

    status = "INTERNAL"
    default_reason = "INTERNAL"


_BY_STATUS: dict[str, type[PenstockError]] = {
    kind.status: kind
    for kind in (
        InvalidInput,
        DataFault,
        NotFound,
        AlreadyExists,
        Conflict,
        LimitExceeded,
        Unavailable,
        TimedOut,
        Cancelled,
        Corrupt,
        Unauthenticated,
        PermissionDenied,
        Unsupported,
        Internal,
    )
}
_BY_STATUS["OUT_OF_RANGE"] = InvalidInput


def error_for_status(status: str) -> type[PenstockError]:
    """The class that a canonical status name travels back as (``PenstockError`` if unknown)."""
    return _BY_STATUS.get(status, PenstockError)


def _rebuild(kind: type[PenstockError], message: str, state: dict[str, object]) -> PenstockError:
    error = kind(message)
    error.__dict__.update(state)
    return error
