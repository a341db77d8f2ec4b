"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from graders.harness.settings import SettingError


@contextlib.contextmanager
def alone_in(folder: Path, called: str, taken: str) -> Iterator[None]:
    """Make the folder, and hold it for one run; the lock goes with the process.

    Raises SettingError: `taken` where another run holds it, else that `called` cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingError(f"{called} cannot be made: {error.strerror or error}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SettingError(taken) from None
    try:
        yield
    finally:
        os.close(lock)
