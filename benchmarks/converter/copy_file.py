"""Copies a file with plain reads and writes of 1 MiB and syncs it: what moving the bytes costs.

It is the least that any program pays which takes a recording in and puts its images out: each byte
goes through its memory once. It looks at none of them. That hardly anything else is counted, start
included, makes it a floor for large files only.

Usage: python -S copy_file.py SOURCE TARGET
"""

import os
import sys

__all__: list[str] = []

_BLOCK = 1 << 20


def main() -> None:
    """Copy."""
    source, target = sys.argv[1:]
    with open(source, "rb", buffering=0) as reader, open(target, "wb", buffering=0) as writer:  # noqa: PTH123 - pathlib alone would cost more than the copy of a small file
        buffer = memoryview(bytearray(_BLOCK))
        while count := reader.readinto(buffer):
            written = 0
            while written < count:
                written += writer.write(buffer[written:count])
        os.fsync(writer.fileno())


if __name__ == "__main__":
    main()
