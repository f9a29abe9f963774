"""The sampler's client: one dataset out of any number of replicas, in order, whatever dies."""

from penstock.client.sampler.buffers import Allocate
from penstock.client.sampler.client import SamplerClient
from penstock.client.sampler.fetching import OnLost
from penstock.client.sampler.opening import open_sampler
from penstock.client.sampler.remote import RemoteSampler
from penstock.client.sampler.transfer import ReplicaShare, TransferStatistics

__all__ = [
    "Allocate",
    "OnLost",
    "RemoteSampler",
    "ReplicaShare",
    "SamplerClient",
    "TransferStatistics",
    "open_sampler",
]
