"""The rollout file: named tensors ``[env, time, ...]`` in segments that can be read alone.

docs/rollouts-format.md has its format.
"""

from penstock.rollout_file.decoder import Decoder
from penstock.rollout_file.encoder import Encoder
from penstock.rollout_file.encoding import Encoding
from penstock.rollout_file.field import Field
from penstock.rollout_file.file import read, verify
from penstock.rollout_file.index import Index, read_index
from penstock.rollout_file.leaves import Leaves, flatten, unflatten
from penstock.rollout_file.limits import Limits

__all__ = [
    "Decoder",
    "Encoder",
    "Encoding",
    "Field",
    "Index",
    "Leaves",
    "Limits",
    "flatten",
    "read",
    "read_index",
    "unflatten",
    "verify",
]
