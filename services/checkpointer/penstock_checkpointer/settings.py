"""Settings of the checkpointer service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.retention import KeepBest, RetentionPolicy
from penstock.server import ServerSettings
from penstock_checkpointer.object_shelf import ObjectShelf
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.shelf import Shelf
from penstock_checkpointer.staging import StoreLimits

__all__ = ["CheckpointerSettings"]


class CheckpointerSettings(ServerSettings):
    """Where checkpoints and rollouts are kept and what is taken."""

    port: int = Field(50053, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    root: Path = Field(description="Directory of the store; created if it is missing.")
    object_store: str | None = Field(
        None,
        description="Keep checkpoints in s3://bucket/prefix; uploads and the catalogue stay in "
        "root. Endpoint and credentials: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...",
    )
    max_upload_bytes: int = Field(
        64 << 30, ge=1, description="Largest checkpoint that is taken, in bytes."
    )
    min_free_bytes: int = Field(
        256 << 20, ge=0, description="Bytes that stay free on the disk of the store."
    )
    upload_expiry_s: float = Field(
        86_400.0, gt=0, description="Seconds after which an upload that stands still is removed."
    )
    max_rollout_bytes: int = Field(
        16 << 30, ge=1, description="Largest rollout that is taken, in bytes of its file."
    )
    push_expiry_s: float = Field(
        3600.0, gt=0, description="Seconds after which a push that stands still is removed."
    )
    max_run_bytes: int = Field(
        0, ge=0, description="What one run may hold, in bytes, open uploads counted; 0 for all."
    )
    max_store_bytes: int = Field(
        0, ge=0, description="What the store may hold, in bytes, open uploads counted; 0 for all."
    )
    keep_last: int = Field(
        0,
        ge=0,
        description="Keep the newest so many checkpoints of a run and remove, after each commit, "
        "what no rule keeps; 0 is no rule, and without any rule all are kept.",
    )
    keep_every: int = Field(
        0, ge=0, description="Keep steps that are multiples of this, as a rule like --keep-last."
    )
    keep_best: str = Field(
        "",
        description="Keep the best by metrics, as rules like --keep-last, with commas between: "
        "val_loss:3 for the three lowest, return:3:max for the three highest.",
    )
    scrub_interval_s: float = Field(
        86_400.0,
        ge=0,
        description="Seconds after which every byte of a checkpoint is checked again; 0 for never.",
    )
    scrub_bytes_per_s: float = Field(
        100e6, gt=0, description="Bytes per second that these checks read at most."
    )

    def store_limits(self) -> StoreLimits:
        """The limits of the store."""
        return StoreLimits(
            upload_size_bytes=self.max_upload_bytes,
            free_bytes=self.min_free_bytes,
            upload_expiry_s=self.upload_expiry_s,
            run_bytes=self.max_run_bytes,
            store_bytes=self.max_store_bytes,
        )

    def rollout_limits(self) -> RolloutLimits:
        """The limits of the rollouts."""
        return RolloutLimits(
            rollout_size_bytes=self.max_rollout_bytes,
            free_bytes=self.min_free_bytes,
            push_expiry_s=self.push_expiry_s,
        )

    def retention(self) -> RetentionPolicy | None:
        """What is kept of each run; None for everything.

        Raises:
            InvalidInput: ``keep_best`` is written wrong, or a number is too large.
        """
        rules = tuple(KeepBest.parse(text) for text in self.keep_best.split(",") if text.strip())
        policy = RetentionPolicy(
            keep_last=self.keep_last, keep_every=self.keep_every, keep_best=rules
        )
        return policy or None

    def shelf(self) -> Shelf | None:
        """Where committed checkpoints stand; None for the directory itself.

        Raises:
            InvalidInput: ``object_store`` is no URL of a bucket.
            Unsupported: Its extra is not installed.
        """
        return None if self.object_store is None else ObjectShelf(self.object_store)
