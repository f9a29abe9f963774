"""Streams of rollouts: pushing, pulling, taking, settling; embedded or over gRPC."""

from penstock.client.rollout.client import RolloutClient, open_rollouts
from penstock.client.rollout.operations import Pulled

__all__ = ["Pulled", "RolloutClient", "open_rollouts"]
