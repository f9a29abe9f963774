"""Checkpoint files of all kinds: read, written for other tools, and, where trusted, unpickled."""
