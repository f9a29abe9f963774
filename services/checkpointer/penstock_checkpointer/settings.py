"""Settings of the checkpointer service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.server import ServerSettings
from penstock_checkpointer.staging import StoreLimits

__all__ = ["CheckpointerSettings"]


class CheckpointerSettings(ServerSettings):
    """Where checkpoints are kept and what is taken."""

    port: int = Field(50053, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    root: Path = Field(description="Directory of the store; created if it is missing.")
    max_upload_bytes: int = Field(
        64 << 30, ge=1, description="Largest checkpoint that is taken, in bytes."
    )
    min_free_bytes: int = Field(
        256 << 20, ge=0, description="Bytes that stay free on the disk of the store."
    )
    upload_expiry_s: float = Field(
        86_400.0, gt=0, description="Seconds after which an upload that stands still is removed."
    )

    def store_limits(self) -> StoreLimits:
        """The limits of the store."""
        return StoreLimits(
            upload_size_bytes=self.max_upload_bytes,
            free_bytes=self.min_free_bytes,
            upload_expiry_s=self.upload_expiry_s,
        )
