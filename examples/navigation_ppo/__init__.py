"""A robot that learns by PPO to fly through moving obstacles, its rollouts sent by Penstock."""
