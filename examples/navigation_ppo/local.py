"""All of it on this machine: checkpointer, collector and trainer as processes of their own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bag_to_policy.processes import Processes

from penstock.server.port import free_port

__all__ = ["run_here"]

_INTERRUPTED = 130


def run_here(
    out: Path,
    trainer: Mapping[str, object],
    collector: Mapping[str, object],
    say: Callable[[str], None],
) -> int:
    """Run to the end and give the exit code of the trainer.

    Args:
        out: Folder of the store, the journals and the logs.
        trainer: Options of ``train``.
        collector: Options of ``collect``.
        say: Tells people.
    """
    # SIGINT too: a shell without job control starts what is in the background with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _as_interrupt)
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    target = f"grpc://127.0.0.1:{port}"
    part = [sys.executable, "-u", "-m", "navigation_ppo"]
    try:
        with Processes(out / "logs", say) as processes:
            serve = [sys.executable, "-m", "penstock.cli", "serve", "checkpointer"]
            store = {"root": out / "store", "port": port, "keep-last": 3}
            processes.serve("checkpointer", [*serve, *_words(store)])
            processes.wait_until_healthy("checkpointer", target)
            options = {**collector, "target": target, "journal": out / "collector.jsonl"}
            processes.serve("collector", [*part, "collect", *_words(options)], until_done=True)
            options = {**trainer, "target": target, "journal": out / "trainer.jsonl"}
            return processes.run([*part, "train", *_words(options)])
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return _INTERRUPTED


def _words(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _as_interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
