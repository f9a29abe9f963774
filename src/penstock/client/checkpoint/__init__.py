"""Checkpoints as their users see them, and how a store is reached: here, or over gRPC."""

from penstock.client.checkpoint.client import (
    CheckpointClient,
    load_checkpoint,
    open_checkpoints,
    resolve_target,
)
from penstock.client.checkpoint.tokens import PROCESS_TOKENS, WriterTokens

__all__ = [
    "PROCESS_TOKENS",
    "CheckpointClient",
    "WriterTokens",
    "load_checkpoint",
    "open_checkpoints",
    "resolve_target",
]
