"""A full disk is recognised by what the system said, whichever library was told it."""

import errno
import os
from pathlib import Path

import pytest

from penstock.disk import full_disk_named, is_disk_full
from penstock.errors import Corrupt, LimitExceeded


def write_to_a_full_disk():
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 10)


def wrapped_by_a_library():
    try:
        write_to_a_full_disk()
    except OSError as error:
        raise RuntimeError("unexpected pos 704 vs 598") from error


def quoted_by_a_library():
    raise RuntimeError(f"Error while serializing: {os.strerror(errno.ENOSPC)} (os error 28)")


@pytest.mark.parametrize("write", [write_to_a_full_disk, wrapped_by_a_library, quoted_by_a_library])
def test_a_full_disk_is_named_with_what_was_written(write):
    with (
        pytest.raises(
            LimitExceeded, match=r"writing out\.pt: the disk is full: free space"
        ) as full,
        full_disk_named("writing out.pt"),
    ):
        write()
    assert full.value.reason == "DISK_FULL"


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "no"), Corrupt("bad hash"), LimitExceeded("queue is full")]
)
def test_other_errors_go_on_as_they_are(error):
    assert not is_disk_full(error)
    with pytest.raises(type(error)) as caught, full_disk_named("writing out.pt"):
        raise error
    assert caught.value is error
