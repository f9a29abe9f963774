"""Rollouts that were pickled into LZ4 frames, read once to be converted.

tensors_only   an unpickler that makes tensors, arrays and containers, and nothing else
read           a file of any kind, told apart by its content
"""

from penstock.rollouts.old_files.read import OldRollout, iteration_of_name, read_old

__all__ = ["OldRollout", "iteration_of_name", "read_old"]
