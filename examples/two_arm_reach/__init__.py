"""A simulated two-armed robot: it records bags as a robot would, and it measures policies."""
