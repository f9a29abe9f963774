"""Cached frames: the frames of one recording, resized and encoded once, in one ``.frames`` file.

A transition is one contiguous read of such a file. docs/wire-format.md describes its bytes.
"""

from penstock.frame_file.encoded import DamagedFile, EncodedRecords
from penstock.frame_file.header import FrameHeader, FrameSource
from penstock.frame_file.reader import FrameFile, Piece, read_pieces
from penstock.frame_file.writer import FrameFileWriter, remove_unfinished

__all__ = [
    "DamagedFile",
    "EncodedRecords",
    "FrameFile",
    "FrameFileWriter",
    "FrameHeader",
    "FrameSource",
    "Piece",
    "read_pieces",
    "remove_unfinished",
]
