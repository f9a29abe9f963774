"""Conversions as many tasks, through the executors of datatrove."""
