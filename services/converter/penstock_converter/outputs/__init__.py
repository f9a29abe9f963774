"""LeRobot datasets and HDF5 files."""
