"""Rosbags of every kind: found, opened, looked at, salvaged."""
