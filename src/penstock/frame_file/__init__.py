"""Cached frames: the frames of one recording, resized and encoded once, in one ``.frames`` file.

A transition is one contiguous read of such a file. docs/wire-format.md describes its bytes.
"""

from penstock.frame_file.header import FrameHeader, FrameSource
from penstock.frame_file.reader import FrameFile
from penstock.frame_file.writer import FrameFileWriter, remove_unfinished

__all__ = ["FrameFile", "FrameFileWriter", "FrameHeader", "FrameSource", "remove_unfinished"]
