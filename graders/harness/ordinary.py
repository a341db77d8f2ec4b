"""Reading a file of a stranger's, which may be a pipe, a device, or without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def beginning(path: Path, most: int) -> bytes:
    """The first `most` bytes of an ordinary file, or of one that a link leads to.

    Raises OSError, also where it is anything else: that is never opened, since opening a device can
    do something, and opening a pipe waits for its other end.
    """
    _expect_file(os.stat(path).st_mode, path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        _expect_file(os.fstat(handle).st_mode, path)  # it may have been exchanged
        return file.read(most)


def _expect_file(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is no ordinary file", str(path))
