"""Named places where a process kills itself when it is told to, to prove that nothing is lost.

``PENSTOCK_FAILPOINT=name:3`` kills the process the third time it comes to ``name``, as ``kill -9``
would. Without the variable a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

__all__ = ["failpoint"]

_VARIABLE = "PENSTOCK_FAILPOINT"


class _Trigger:
    """Counts how often the chosen place was reached; unset, no place is."""

    def __init__(self, setting: str) -> None:
        self.name, _, count = setting.partition(":")
        self._left = int(count or 1)

    def reached(self) -> None:
        """Kill the process when its turn has come."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


_trigger = _Trigger(os.environ.get(_VARIABLE, ""))


def failpoint(name: str) -> None:
    """Die here if that was asked for."""
    if name == _trigger.name:
        _trigger.reached()
