"""Fencing tokens: what tells the writers of a run apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from penstock.checkpoints import UploadState

__all__ = ["PROCESS_TOKENS", "WriterTokens"]


class WriterTokens:
    """Fencing tokens of one writer, by store and run.

    A process is one writer: its clients share their tokens, so that they do not fence each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str], int] = {}
        self._locks: dict[tuple[str, str], threading.RLock] = {}

    def begin(self, store: str, run: str, begin: Callable[[int], UploadState]) -> UploadState:
        """Begin an upload with the token of the run, one at a time, and keep the answered one."""
        with self.hold(store, run):
            state = begin(self.known(store, run))
            self.learn(store, run, state.fencing_token)
            return state

    @contextmanager
    def hold(self, store: str, run: str) -> Generator[None]:
        """Be the only one of this writer that begins an upload to a run."""
        with self._lock:
            lock = self._locks.setdefault((store, run), threading.RLock())
        with lock:
            yield

    def known(self, store: str, run: str) -> int:
        """The token of a run; 0 if there is none yet."""
        return self._tokens.get((store, run), 0)

    def learn(self, store: str, run: str, token: int) -> None:
        """Use a token from now on, as the store gave it to this writer."""
        self._tokens[store, run] = token

    def forget(self, store: str, run: str) -> None:
        """Ask for a new token at the next upload, which takes the run over."""
        self._tokens.pop((store, run), None)


PROCESS_TOKENS = WriterTokens()
"""Of all clients that are given none."""
