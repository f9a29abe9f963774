"""Rollouts and streams as JSON says them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from penstock.rollout_file import Index
from penstock.rollouts.fields import StoredField
from penstock.streams import RolloutInfo, StreamState

__all__ = ["index_document", "info_document", "stream_document"]


def info_document(info: RolloutInfo) -> dict[str, Any]:
    """What is known of a rollout; its digest in hex."""
    document = asdict(info)
    document["digest"] = {
        "size_bytes": info.digest.size_bytes,
        "xxh3_128": info.digest.xxh3_128.hex(),
    }
    return document


def stream_document(state: StreamState) -> dict[str, Any]:
    """What is known of a stream."""
    return asdict(state)


def index_document(index: Index, fields: list[StoredField]) -> dict[str, Any]:
    """What a rollout's file holds."""
    return {
        "envs": index.envs,
        "steps": index.steps,
        "raw_size_bytes": index.raw_size_bytes,
        "size_bytes": index.file_size_bytes,
        "meta": dict(index.meta),
        "fields": [
            {
                "name": found.field.name,
                "dtype": found.field.dtype,
                "shape": list(found.field.shape),
                "codec": found.field.codec,
                "stored": found.field.stored,
                "next_of": found.field.next_of,
                "segment_envs": found.field.chunk_envs,
                "segment_steps": found.field.chunk_steps,
                "raw_bytes": found.raw_bytes,
                "stored_bytes": found.stored_bytes,
            }
            for found in fields
        ],
    }
