"""The process beside the training process: it encodes snapshots and stores them.

It ends when the training process does. Run as a module, with the handle of its connection.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.checkpoints import CheckpointInfo
from penstock.client.checkpoint import CheckpointClient, WriterTokens, open_checkpoints
from penstock.client.checkpoint_files.export import write_torch
from penstock.client.saving.buffers import map_buffer
from penstock.client.saving.messages import (
    entries_from_json,
    error_to_json,
    info_to_json,
    receive,
    send,
    storages_from_json,
)
from penstock.container import (
    Base,
    Flattened,
    PlannedStorage,
    Profile,
    Reader,
    restored,
    write,
    write_file,
)
from penstock.container.tensors import TensorEntry
from penstock.disk import full_disk_named
from penstock.errors import DataFault
from penstock.failpoints import failpoint

__all__ = ["main"]

_NICENESS = 10
"""Encoding makes way for training where both want the same core."""


class _Work:
    """What this process knows between two messages."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._compress: Profile = told["compress"]
        self._rebase_every: int = told["rebase_every"]
        self._run: str = told["run"]
        self._tokens = WriterTokens()
        self._target: str = told["target"]
        self._retry_s: float = told["retry_s"]
        self._client: CheckpointClient | None = None
        self._plans: dict[int, tuple[list[TensorEntry], list[PlannedStorage]]] = {}
        self._buffers: dict[int, npt.NDArray[np.uint8]] = {}
        self._base: Base | None = None
        self._base_file = ExitStack()
        self._saved_on_base = 0

    def learn_plan(self, message: dict[str, Any]) -> None:
        """Keep the newest plan; older ones are not asked for again."""
        entries, storages = message["entries"], message["storages"]
        self._plans = {message["plan"]: (entries_from_json(entries), storages_from_json(storages))}

    def learn_buffer(self, message: dict[str, Any], handle: int) -> None:
        """Keep a buffer."""
        self._buffers[message["buffer"]] = map_buffer(handle, message["size_bytes"])

    def forget_buffer(self, message: dict[str, Any]) -> None:
        """Give a buffer back."""
        self._buffers.pop(message["buffer"], None)

    def save(self, message: dict[str, Any]) -> dict[str, Any]:
        """Save what is in a buffer; returns what to answer."""
        failpoint("uploader.received")
        entries, storages = self._plans[message["plan"]]
        tree = json.loads(message["tree"])
        state = restored(tree, entries, storages, self._buffers[message["buffer"]])
        if message["path"] is not None:
            self._write_file(state, Path(message["path"]))
            return {}
        info = self._store(state, message)
        failpoint("uploader.saved")
        token = self._tokens.known(str(self._open_client().target), self._run)
        return {"info": info_to_json(info), "fencing_token": token}

    def _open_client(self) -> CheckpointClient:
        if self._client is None:
            self._client = open_checkpoints(
                self._target, retry_s=self._retry_s, tokens=self._tokens
            )
        return self._client

    def _store(self, state: Flattened, message: dict[str, Any]) -> CheckpointInfo:
        client = self._open_client()
        if message["fencing_token"]:
            self._tokens.learn(str(client.target), self._run, message["fencing_token"])
        if self._saved_on_base >= self._rebase_every:
            self._drop_base()
        try:
            return self._send(client, state, message)
        except DataFault as error:
            if error.reason != "BASE_MISSING" or self._base is None:
                raise
            # It was deleted, or is damaged: this one takes its place.
            self._drop_base()
            return self._send(client, state, message)

    def _send(
        self, client: CheckpointClient, state: Flattened, message: dict[str, Any]
    ) -> CheckpointInfo:
        run, step = self._run, message["step"]
        with ExitStack() as files:
            file = files.enter_context(tempfile.TemporaryFile(prefix="penstock-", suffix=".pstk"))
            with full_disk_named(f"writing {run}/{step} to {tempfile.gettempdir()} to send it"):
                written = client.write_state(
                    state, file, run, step, compress=self._compress, base=self._base
                )
            failpoint("uploader.encoded")
            info = client.send_file(
                file, written, run, step, tags=message["tags"], metrics=message["metrics"]
            )
            self._saved_on_base += 1
            if self._base is None and self._rebase_every > 1:
                self._base = Base(written.ref(step), file, written.hashes)
                self._base_file, self._saved_on_base = files.pop_all(), 1
        return info

    def _drop_base(self) -> None:
        self._base = None
        self._base_file.close()
        self._base_file = ExitStack()
        self._saved_on_base = 0

    def _write_file(self, state: Flattened, path: Path) -> None:
        if path.suffix == ".pstk":
            write_file(state, path, compress=self._compress)
            return
        # Through a file, for only the reader knows how tensors come to share memory again.
        with tempfile.TemporaryFile(prefix="penstock-", suffix=".pstk") as file:
            with full_disk_named(f"writing {path} to {tempfile.gettempdir()} first"):
                write(state, file, compress="none")
            with Reader(file) as reader:
                write_torch(reader.load(), path)


def main() -> None:
    """Serve one saver until it is gone."""
    # Of the terminal's signals: the training process decides what becomes of its checkpoints.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    connection = Connection(int(sys.argv[1]))
    try:
        _serve(connection)
    except (EOFError, OSError):
        # The training process is gone, and with it whoever could be told.
        os._exit(0)


def _serve(connection: Connection) -> None:
    work = _Work(receive(connection))
    while True:
        message = receive(connection)
        if message["kind"] == "plan":
            work.learn_plan(message)
        elif message["kind"] == "buffer":
            work.learn_buffer(message, recv_handle(connection))
        elif message["kind"] == "forget":
            work.forget_buffer(message)
        else:
            try:
                answer = work.save(message)
            except Exception as error:  # noqa: BLE001 - told to the saver, which raises it
                answer = {"error": error_to_json(error)}
            send(connection, answer)


if __name__ == "__main__":
    main()
