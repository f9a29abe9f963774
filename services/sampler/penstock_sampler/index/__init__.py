"""What is known of a dataset without its frames: files, episodes, scalars and statistics."""
