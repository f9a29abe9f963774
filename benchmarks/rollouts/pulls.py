"""What a few environments of a rollout cost: bytes read of the store, bytes sent over the cable.

Counted, not timed: on the cable by the counters of its ends, with all headers and the index; in the
store by a file that counts, and beside it, as a check, by what the kernel counts as read by the
server's process (an upper bound: it may read other files too).
"""

from __future__ import annotations

from typing import Any

from processes import PeerFailed
from transfers import Shaped

__all__ = ["count_pulls"]

_ENVS, _OF = 8, 1024
CHOICES = {
    "neighbours": tuple(range(504, 504 + _ENVS)),
    "scattered": tuple(range(37, _OF, _OF // _ENVS)),
}
"""Which 8 environments; the block of neighbours is one that segments begin with."""
_WAY = "penstock_lz4"


def count_pulls(shaped: Shaped) -> dict[str, dict[str, Any]]:
    """Pull 8 of 1024 environments of the rollout that was sent last by lz4.

    Returns:
        By choice of environments: shares of the file, and the file's bytes.

    Raises:
        PeerFailed: The client does not do it, or nothing could be sent.
    """
    pair = shaped.pairs.get("penstock")
    if pair is None or _WAY in shaped.failed:
        raise PeerFailed(f"no parts without {_WAY}")
    server = shaped.servers[_WAY]
    pair.trainer.tell("receive", way=_WAY)
    pair.trainer.hear()
    pair.collector.ask("send", way=_WAY)
    pair.trainer.hear()
    found: dict[str, dict[str, Any]] = {}
    for name, envs in CHOICES.items():
        pair.collector.ask("pull", way=_WAY, envs=envs)  # what is learnt once is learnt now
        read = pair.collector.ask("read", way=_WAY, envs=envs)
        sent, served = shaped.sent_bytes(shaped.trainer), server.read_bytes()
        file_bytes = pair.collector.ask("pull", way=_WAY, envs=envs)["file_bytes"]
        sent, served = shaped.sent_bytes(shaped.trainer) - sent, server.read_bytes() - served
        found[name] = {
            "read_share": read["read_bytes"] / read["file_bytes"],
            "served_share": served / file_bytes,
            "wire_share": sent / file_bytes,
            "file_bytes": file_bytes,
        }
    return found
