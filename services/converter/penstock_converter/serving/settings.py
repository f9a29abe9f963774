"""Settings of the converter service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.server.settings import ServerSettings

__all__ = ["DEFAULT_PORT", "ConverterSettings"]

DEFAULT_PORT = 50054


class ConverterSettings(ServerSettings):
    """Where recordings come from and datasets go to, and how many at a time."""

    port: int = Field(
        DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    input_root: Path = Field(
        Path("/recordings"), description="Folder of the recordings; inputs are relative to it."
    )
    output_root: Path = Field(
        Path("/data"), description="Folder of the datasets; outputs are relative to it."
    )
    max_running: int = Field(
        1, ge=1, le=64, description="Conversions at a time, each a process; others wait."
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="Recordings at a time in a conversion, a process each; default: half the "
        "cores, as memory allows.",
    )
    max_conversions: int = Field(
        1000, ge=1, description="Conversions remembered; the oldest that ended are forgotten."
    )
    max_inputs: int = Field(20_000, ge=1, description="Recordings in a conversion at most.")
