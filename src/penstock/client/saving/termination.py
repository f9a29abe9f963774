"""Ending in order: a process that is told to terminate leaves through its exit handlers."""

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["leave_termination", "soften_termination"]

_lock = threading.Lock()
_users: int = 0


def soften_termination() -> None:
    """While somebody asks for it, SIGTERM ends the program as ``sys.exit`` would.

    Nothing happens where the program handles the signal itself, or outside the main thread. SIGINT
    needs nothing: Python raises KeyboardInterrupt, and exit handlers run.
    """
    global _users  # noqa: PLW0603 - a signal has one handler in a process
    with _lock:
        _users += 1
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        ):
            signal.signal(signal.SIGTERM, _exit)


def leave_termination() -> None:
    """Take one wish back; with the last, SIGTERM does what it did before."""
    global _users  # noqa: PLW0603 - as above
    with _lock:
        _users -= 1
        if (
            not _users
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is _exit
        ):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
