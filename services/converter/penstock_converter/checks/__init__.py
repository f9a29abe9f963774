"""Whether a dataset is what it says it is, and what its recordings say."""
