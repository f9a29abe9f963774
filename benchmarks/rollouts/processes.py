"""Processes that stay warm and answer requests: collectors, trainers and codecs of all peers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from environments import last_lines

__all__ = ["PeerFailed", "Process"]

_ANSWER_S = 60.0
_START_S = 120.0
_END_S = 5.0


class PeerFailed(Exception):
    """A process has ended, does not answer, or answers with an error."""


class Process:
    """One process of ``worker.serve``; ended when the block is left.

    Args:
        command: What is run.
        log: File for what it says besides answers.
        environment: Added to this process's own.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log, self._buffer = log, b""
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env={**os.environ, **(environment or {})},
                bufsize=0,
            )

    def wait_until_ready(self) -> None:
        """Wait until it has imported all and holds the data.

        Raises:
            PeerFailed: It does not come so far.
        """
        self.hear(_START_S)

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Request something and wait for the answer.

        Raises:
            PeerFailed: There is none, or it is an error.
        """
        self.tell(do, **values)
        return self.hear()

    def tell(self, do: str, **values: Any) -> None:
        """Request something.

        Raises:
            PeerFailed: The process has ended.
        """
        try:
            assert self._process.stdin is not None  # noqa: S101 - it is a pipe
            self._process.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
        except BrokenPipeError:
            raise PeerFailed(self._last_words()) from None

    def hear(self, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """The next answer.

        Raises:
            PeerFailed: There is none, or it is an error.
        """
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._process.stdout], [], [], left_s)[0]:
                raise PeerFailed(f"no answer within {timeout_s:.0f} s: {self._last_words()}")
            read = os.read(self._process.stdout.fileno(), 1 << 16)
            if not read:
                raise PeerFailed(f"it has ended: {self._last_words()}")
            self._buffer += read
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        return last_lines(self._log.read_text(errors="replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
