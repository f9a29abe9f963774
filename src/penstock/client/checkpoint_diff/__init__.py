"""What differs between two checkpoints, found tensor by tensor in bounded memory."""

from penstock.client.checkpoint_diff.diff import Difference, TensorChange, diff_checkpoints

__all__ = ["Difference", "TensorChange", "diff_checkpoints"]
