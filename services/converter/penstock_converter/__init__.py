"""The converter: recordings of robots into LeRobot v3.0 datasets and HDF5 files."""
