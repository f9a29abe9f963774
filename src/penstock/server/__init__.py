"""What every Penstock server has: health, reflection, errors, metrics, log lines, draining."""

from penstock.server.bootstrap import RunningServer, serve, start
from penstock.server.log import configure_logging
from penstock.server.settings import ServerSettings

__all__ = ["RunningServer", "ServerSettings", "configure_logging", "serve", "start"]
