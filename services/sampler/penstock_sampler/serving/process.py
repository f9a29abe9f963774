"""The sampler as a service, from its settings to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import structlog

from penstock.allocator import give_back_memory, keep_message_memory
from penstock.client.sampler.direct_line import FETCH
from penstock.errors import DataFault, NotFound, Unavailable
from penstock.server import configure_logging, serve
from penstock.targets import Target
from penstock_sampler.backend import open_backend
from penstock_sampler.index.discovery import find_files
from penstock_sampler.service import SamplerService
from penstock_sampler.serving.direct_server import DirectServer, what_is_missing
from penstock_sampler.serving.local_path import SocketPlace, socket_place
from penstock_sampler.serving.local_server import LocalServer
from penstock_sampler.serving.status import Activity
from penstock_sampler.serving.versions import ServedVersions, Watch
from penstock_sampler.serving.workers import serve_workers
from penstock_sampler.settings import SamplerSettings

__all__ = ["serve_process", "serve_sampler"]

log = structlog.get_logger(__name__)

_KEPT_BYTES = 32 << 20
"""Free memory that the allocator keeps for the next messages; of less, each takes fresh pages."""


def serve_sampler(settings: SamplerSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        NotFound: Nothing matches, and ``wait_for_data`` is off.
        DataFault: Nothing can be served, and ``wait_for_data`` is off.
        Unavailable: The port is taken.
    """
    if settings.process_count > 1:
        serve_workers(settings)
    else:
        serve_process(settings)


def serve_process(settings: SamplerSettings, on_serving: Callable[[], None] | None = None) -> None:
    """Serve in this process; the only one, or one of those that ``serve_workers`` started.

    Args:
        settings: With more than one process, the port is one that the parent holds.
        on_serving: Called when the first call would be answered.

    Raises:
        PenstockError: See :func:`serve_sampler`.
    """
    shared_port = settings.process_count > 1
    configure_logging(settings.log_level, settings.log_format, pid=shared_port)
    keep_message_memory(_KEPT_BYTES, heaps=1)
    target = Target.parse(settings.data)
    served = ServedVersions(lambda: open_backend(target, settings))
    with contextlib.ExitStack() as stack:
        stack.callback(served.close)
        try:
            served.open()
        except (NotFound, DataFault) as error:
            if not settings.wait_for_data:
                raise
            log.warning("no data yet", reason=error.reason, error=error.message)
        give_back_memory()  # what reading the files took
        if settings.watch_s:
            watch = Watch(served, lambda: _fingerprint(target.locations), settings.watch_s)
            watch.start()
            stack.callback(watch.stop)
        activity = Activity()
        place = socket_place(settings.local_socket, activity.replica_id)
        local_socket = _open_local(place, served, activity, settings, stack)
        direct = _listen_directly(settings, activity)
        service = SamplerService(
            served,
            settings.group_bytes,
            settings.max_streams,
            stall_s=settings.stall_s,
            codec=settings.codec,
            activity=activity,
            local_socket=local_socket,
            processes=settings.process_count,
            direct_port=0 if direct is None else direct.port,
        )
        if direct is not None:
            stack.callback(direct.start({FETCH: service.answer}).stop)
        serve(
            "sampler",
            settings,
            service.register,
            shared_port=shared_port,
            on_serving=on_serving,
            on_drain=None if direct is None else direct.drain,
        )


def _listen_directly(settings: SamplerSettings, activity: Activity) -> DirectServer | None:
    """The direct port; None where it would have nothing to send, or could not."""
    if settings.direct_port == "none":
        return None
    missing = what_is_missing()
    if settings.cache_folder is None:
        missing = "sends what is cached, and cache_dir is none"
    if missing:
        log.info("no direct port", reason=f"it {missing}")
        return None
    port = 0 if settings.direct_port == "auto" else int(settings.direct_port)
    return DirectServer(settings.host, port, activity.replica_id, drain_s=settings.drain_s)


def _open_local(
    place: SocketPlace | None,
    served: ServedVersions,
    activity: Activity,
    settings: SamplerSettings,
    stack: contextlib.ExitStack,
) -> str:
    """Serve clients of this machine; returns the socket, empty without one."""
    if place is None:
        return ""
    local = LocalServer(place, served, activity, any_user=settings.local_any_user)
    try:
        stack.enter_context(local)
    except Unavailable as error:
        if settings.local_socket != "auto":
            raise
        # Nobody asked for it, and everything works without it.
        log.warning("clients of this machine are served over TCP", reason=error.message)
        return ""
    return local.path


def _fingerprint(locations: tuple[str, ...]) -> list[tuple[str, int, int, int]]:
    """What changes when a file comes, goes or is written to."""
    found: list[tuple[str, int, int, int]] = []
    for file in find_files(locations):
        state = file.path.stat()
        found.append((str(file.path), state.st_ino, state.st_size, state.st_mtime_ns))
    return found
