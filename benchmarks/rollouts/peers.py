"""Who takes part: scripts, environments, and the ways of each."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from environments import environment

__all__ = ["PEERS", "PeerScript", "codec_ways", "peer_versions", "transfer_ways"]

HERE = Path(__file__).parent
_SAMPLER_REQUIREMENTS = HERE.parent / "sampler_peers" / "requirements"
_COMPARED = ("torch", "tensordict", "pyarrow", "dm-reverb")
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class PeerScript:
    """How one peer is run.

    Attributes:
        script: File beside this one.
        codecs: Its ways to keep a rollout, and how they are called in tables.
        transfers: Its ways to move one, and how they are called in tables.
        environment: Its environment; None for Penstock's own.
        requirements: What is in that.
        variables: Of its processes.
    """

    script: str
    codecs: dict[str, str] = field(default_factory=dict)
    transfers: dict[str, str] = field(default_factory=dict)
    environment: str | None = None
    requirements: Path = HERE
    variables: dict[str, str] = field(default_factory=dict)

    def command(self, data: Path) -> list[str]:
        """What starts it; makes its environment first where there is none.

        Raises:
            RuntimeError: The environment cannot be made.
        """
        python = sys.executable
        if self.environment is not None:
            python = str(environment(self.environment, self.requirements))
        return [python, str(HERE / self.script), str(data)]


PEERS = {
    "penstock": PeerScript(
        "peer_penstock.py",
        codecs={
            "penstock_raw": "**Penstock**, raw",
            "penstock_lz4": "**Penstock**, lz4",
            "penstock_zstd": "**Penstock**, zstd",
            "penstock_raw_next": "**Penstock**, raw, `next` rebuilt",
            "penstock_lz4_next": "**Penstock**, lz4, `next` rebuilt (default)",
            "penstock_zstd_next": "**Penstock**, zstd, `next` rebuilt",
            "penstock_lz4_next_half": "the same as lz4, observations as float16 (lossy)",
        },
        transfers={
            "penstock_raw": "**Penstock**, raw",
            "penstock_lz4": "**Penstock**, lz4",
            "penstock_zstd": "**Penstock**, zstd",
            "penstock_lz4_next": "**Penstock**, lz4, `next` rebuilt (default)",
            "penstock_zstd_next": "**Penstock**, zstd, `next` rebuilt",
            "penstock_advised": "**Penstock**, what `advise` says",
            "penstock_beside": "**Penstock**, default, the trainer opens the store's directory",
            "penstock_disk": "**Penstock**, default, stored on a disk",
        },
    ),
    "layouts": PeerScript(
        "peer_layouts.py",
        codecs={
            "natural_lz4": "as in memory, LZ4",
            "natural_zstd": "as in memory, zstd 1",
            "blosc2_lz4": "Blosc2, shuffle, LZ4",
            "blosc2_zstd": "Blosc2, shuffle, zstd",
        },
    ),
    "torch": PeerScript(
        "peer_torch.py",
        codecs={
            "pickle_lz4": "pickle and LZ4 level 9 (the source system)",
            "torch_save": "`torch.save`",
            "memmap": "TensorDict memmap",
        },
        transfers={"pickle_lz4": "pickle and LZ4 level 9, plain socket (the source system)"},
        environment="rollouts_torch",
        requirements=HERE / "requirements" / "torch.txt",
        variables={"CUDA_VISIBLE_DEVICES": ""},
    ),
    "arrow": PeerScript(
        "peer_arrow.py",
        codecs={
            "arrow": "Arrow IPC",
            "arrow_lz4": "Arrow IPC, lz4",
            "arrow_zstd": "Arrow IPC, zstd",
        },
        transfers={"flight": "Arrow Flight", "flight_lz4": "Arrow Flight, lz4"},
        environment="rollouts_arrow",
        requirements=HERE / "requirements" / "arrow.txt",
    ),
    "socket": PeerScript("peer_socket.py", transfers={"socket": "floor: arrays, plain socket"}),
    "reverb": PeerScript(
        "peer_reverb.py",
        transfers={"reverb": "Reverb"},
        environment="reverb",
        requirements=_SAMPLER_REQUIREMENTS / "reverb.txt",
        variables=_QUIET,
    ),
}


def peer_versions() -> dict[str, str]:
    """Versions of the libraries that are compared, as their requirements pin them."""
    pins = {
        name: version
        for peer in PEERS.values()
        if peer.environment is not None
        for line in peer.requirements.read_text().splitlines()
        for name, _, version in (line.partition("=="),)
    }
    return {name: pins[name] for name in _COMPARED}


def codec_ways() -> dict[str, str]:
    """All ways to keep a rollout, with their names in tables."""
    return {way: text for peer in PEERS.values() for way, text in peer.codecs.items()}


def transfer_ways() -> dict[str, str]:
    """All ways to move one, with their names in tables."""
    return {way: text for peer in PEERS.values() for way, text in peer.transfers.items()}
