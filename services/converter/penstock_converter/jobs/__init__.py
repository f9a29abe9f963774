"""Recordings into one dataset: staged one by one, joined, published."""
