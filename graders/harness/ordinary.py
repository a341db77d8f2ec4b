"""Reading a file of a stranger's, which may be a pipe, a device, or without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class NotOrdinary(OSError):
    """It is no ordinary file but what `mode` says."""

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(errno.EINVAL, "It is no ordinary file", str(path))
        self.mode = mode


def beginning(path: Path, most: int, follow_links: bool = True) -> bytes:
    """The first `most` bytes of an ordinary file, or of one that a link leads to.

    Raises OSError; NotOrdinary where it is anything else: that is never opened, since opening a
    device can do something, and opening a pipe waits for its other end.
    """
    _expect_file(os.stat(path, follow_symlinks=follow_links).st_mode, path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    with open(handle, "rb") as file:
        _expect_file(os.fstat(handle).st_mode, path)  # it may have been exchanged
        return file.read(most)


def _expect_file(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise NotOrdinary(path, mode)
