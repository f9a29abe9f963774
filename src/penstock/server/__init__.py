"""What every Penstock server has: health, reflection, errors, metrics, log lines, draining."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.server.bootstrap import RunningServer, serve, start
    from penstock.server.log import configure_logging
    from penstock.server.settings import ServerSettings

__all__ = ["RunningServer", "ServerSettings", "configure_logging", "serve", "start"]

_HOME = {
    "RunningServer": "penstock.server.bootstrap",
    "ServerSettings": "penstock.server.settings",
    "configure_logging": "penstock.server.log",
    "serve": "penstock.server.bootstrap",
    "start": "penstock.server.bootstrap",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: settings alone need no gRPC."""
    if name not in _HOME:
        raise AttributeError(f"module 'penstock.server' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
