"""Times all codecs in turns, each in a process of its own environment."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peers import PEERS
from processes import PeerFailed, Process

__all__ = ["time_codecs"]

_LOSSY = "half"


def time_codecs(
    data: Path, logs: Path, *, raw_bytes: int, digest: int, turns: int, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Ratio and speed of every codec; CPU seconds of its process, so a core's worth.

    Args:
        data: Folder of the rollout.
        logs: Folder for what processes say.
        raw_bytes: Of the rollout.
        digest: Of the rollout.
        turns: Of each codec, besides one to warm up.
        say: Called with what goes on.

    Returns:
        By way: ratio, in_mb_s and out_mb_s; by peer: why it did not run.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as running:
        ways: dict[str, Process] = {}
        for name, peer in PEERS.items():
            if not peer.codecs:
                continue
            try:
                command = peer.command(data)
                process = Process(command, logs / f"{name}-codecs.log", peer.variables)
                running.enter_context(process).wait_until_ready()
            except (PeerFailed, RuntimeError) as error:
                failed[name] = str(error)
                continue
            ways |= dict.fromkeys(peer.codecs, process)
        for turn in range(turns + 1):
            say(f"codecs, turn {turn} of {turns}")
            for way, process in list(ways.items()):
                try:
                    answer = process.ask("codec", way=way)
                except PeerFailed as error:
                    failed[way] = str(error)
                    del ways[way]
                    continue
                if answer["digest"] != digest and _LOSSY not in way:
                    failed[way] = "what comes out is not what went in"
                    del ways[way]
                elif turn:
                    found.setdefault(way, []).append(answer)
    return {way: _figures(answers, raw_bytes) for way, answers in found.items()}, failed


def _figures(answers: list[Mapping[str, Any]], raw_bytes: int) -> dict[str, float]:
    def speed(key: str) -> float:
        return raw_bytes / 1e6 / max(statistics.median(each[key] for each in answers), 1e-6)

    return {
        "ratio": raw_bytes / answers[0]["size_bytes"],
        "in_mb_s": speed("in_s"),
        "out_mb_s": speed("out_s"),
    }
