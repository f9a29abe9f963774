"""Reading stored frames: where they lie in an HDF5 file is found once, then they are read directly.

The HDF5 library has one lock for all of a process, so a read through it keeps every other one
waiting. Most recordings need it only to learn where their frames are: contiguous and chunked data,
plain or through the common compressors, are then read with ``preadv`` and decoded by any number of
threads. Whatever is stored in another way is read through the library itself.
"""
