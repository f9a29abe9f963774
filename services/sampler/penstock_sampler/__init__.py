"""The sampler: serves transitions out of HDF5 recordings, embedded or over gRPC."""
