"""A sampler as a server: its processes, versions of the dataset, streams, and clients nearby."""
