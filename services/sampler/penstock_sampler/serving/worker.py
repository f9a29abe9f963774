"""One of several server processes: ``python -m penstock_sampler.serving.worker LINK NUMBER``.

``workers.py`` starts it and gives it a socket, LINK, over which settings come in and news goes out.
It imports next to nothing before it knows where to count its metrics.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from prometheus_client import values

__all__ = ["METRICS_FOLDER", "main"]

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that tells ``prometheus_client`` where processes count together."""


def main() -> None:
    """Serve until SIGTERM, or until the process that started this one is gone."""
    link, number = Connection(int(sys.argv[1])), int(sys.argv[2])
    if METRICS_FOLDER in os.environ:
        # By default files go by process id: each replacement would leave some behind for ever, as
        # what it counted must stay in the sum. By number, it goes on with those of its predecessor.
        setattr(values, "ValueClass", values.MultiProcessValue(lambda: number))  # noqa: B010 - a class, as pyright sees it
    # A metric chooses where it counts when it is made, which is when its module is imported. What
    # comes through the link imports such modules as well.
    from penstock.errors import PenstockError  # noqa: PLC0415
    from penstock_sampler.serving.process import serve_process  # noqa: PLC0415

    settings = _heard(link)
    threading.Thread(target=_heard, args=(link,), name="parent", daemon=True).start()
    try:
        serve_process(settings, on_serving=lambda: link.send(None))
    except (PenstockError, OSError) as error:
        # The parent says it, once for all processes.
        link.send(error)
        sys.exit(1)


def _heard(link: Connection) -> Any:
    """What the parent sends; ends this process when the parent is gone.

    At once, as nobody would start or stop this process any more, and it would keep the port. The
    kernel closes the parent's end of the link however the parent ends, and no other process has
    that end.
    """
    try:
        return link.recv()
    except (EOFError, OSError):
        if METRICS_FOLDER in os.environ:
            shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)
        os._exit(1)


if __name__ == "__main__":
    main()
