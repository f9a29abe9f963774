"""The checkpointer: keeps checkpoints so that what it acknowledged is never lost."""
