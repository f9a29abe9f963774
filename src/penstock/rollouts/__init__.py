"""Rollouts for collectors and trainers: storage, collecting in the background, advice."""
