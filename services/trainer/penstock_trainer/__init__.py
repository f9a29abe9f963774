"""The trainer: offline reinforcement learning from a sampler, its state in a checkpointer."""
