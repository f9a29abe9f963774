"""Streams of rollouts: pushing, pulling, taking, settling."""
