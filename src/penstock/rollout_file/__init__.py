"""The rollout file: named tensors ``[env, time, ...]`` in segments that can be read alone."""
