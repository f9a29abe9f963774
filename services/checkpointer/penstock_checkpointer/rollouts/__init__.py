"""Streams of rollouts: kept, queued between collectors and trainers."""
