"""Where the unix socket of a replica lies, and who may reach it there."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import structlog

from penstock.errors import Unavailable

__all__ = ["SocketPlace", "socket_place"]

log = structlog.get_logger(__name__)

_SUFFIX = ".sock"
_MAX_PATH_BYTES = 107
"""What a unix socket's address holds."""
_BACKLOG = 16


@dataclass(frozen=True)
class SocketPlace:
    """The path of a socket; ``private`` when its folder is Penstock's own.

    A socket gets its name when it listens already, so a socket by that name that refuses
    connections has lost its server.
    """

    path: Path
    private: bool

    def listen(self, *, world: bool) -> socket.socket:
        """Listen at this path; what a server that was killed left behind is replaced.

        Args:
            world: Whether every user of the machine may connect.

        Raises:
            Unavailable: Another server listens there, something else lies there, or the folder
                cannot be used.
        """
        try:
            return self._listen(world=world)
        except OSError as error:
            raise self._unusable(f"cannot be made ({error.strerror or error})") from error

    def remove(self) -> None:
        """Remove the socket, if it is still there."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _listen(self, *, world: bool) -> socket.socket:
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.private:
            self._own(folder, world=world)
        _remove_orphans(folder)
        if os.path.lexists(self.path):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise self._unusable("is there already and is no socket")
            raise self._unusable("is in use by another server")
        staged = self.path.with_suffix(f".{os.getpid()}")
        if len(os.fsencode(staged)) > _MAX_PATH_BYTES:
            raise self._unusable(f"is too long, at most {_MAX_PATH_BYTES - 8} bytes fit")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with contextlib.suppress(FileNotFoundError):
                staged.unlink()
            listening.bind(str(staged))
            staged.chmod(0o666 if world else 0o600)
            listening.listen(_BACKLOG)
            listening.settimeout(0)
            staged.rename(self.path)
        except OSError:
            listening.close()
            raise
        return listening

    def _own(self, folder: Path, *, world: bool) -> None:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise self._unusable(f"lies in {folder}, which belongs to another user")
        folder.chmod(0o711 if world else 0o700)

    def _unusable(self, why: str) -> Unavailable:
        return Unavailable(
            f"local_socket {self.path} {why}: name another folder, or none",
            reason="LOCAL_SOCKET",
        )


def socket_place(setting: str, replica_id: int) -> SocketPlace | None:
    """Where the socket of a replica goes; None without one.

    Args:
        setting: ``none``, ``auto``, a folder, or a path ending in ``.sock``.
        replica_id: Names the socket within a folder.
    """
    if setting == "none":
        return None
    if setting.endswith(_SUFFIX):
        return SocketPlace(Path(setting).absolute(), private=False)
    name = f"{replica_id:016x}{_SUFFIX}"
    if setting != "auto":
        return SocketPlace(Path(setting).absolute() / name, private=False)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return SocketPlace(Path(runtime) / "penstock" / name, private=True)
    folder = Path(tempfile.gettempdir()) / f"penstock-{os.geteuid()}"
    return SocketPlace(folder / name, private=True)


def _remove_orphans(folder: Path) -> None:
    """Remove the sockets of servers that were killed."""
    for path in folder.glob(f"*{_SUFFIX}"):
        if not path.is_socket():  # a file of another kind refuses connections as well
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.settimeout(0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                log.info("socket of an ended server removed", socket=str(path))
                with contextlib.suppress(OSError):
                    path.unlink()
            except OSError as error:
                # Alive and busy, of another user, or no socket: not ours to remove.
                log.debug("socket left alone", socket=str(path), error=str(error))
