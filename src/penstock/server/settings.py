"""Settings that every server has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.config import Settings

__all__ = ["ServerSettings"]


class ServerSettings(Settings):
    """Where a server listens and how it behaves; services add their own fields."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of the Prometheus metrics; 0 serves none."
    )
    workers: int = Field(
        32, ge=1, le=1024, description="Threads that answer calls; a stream holds one."
    )
    max_calls: int = Field(
        128, ge=1, description="Calls accepted at a time; more get RESOURCE_EXHAUSTED."
    )
    drain_s: float = Field(
        10.0, ge=0, description="Seconds that calls in flight get to finish on SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Form of log lines; auto is console on a terminal, else json."
    )
