"""What is left where a keeper did not come to its end in order, and who clears it away.

A keeper cleans up behind its run (keeper.py). A hostile submission can kill it, or stop it; then
the next in line does it: its grader, and for a class `make grade-all`, which stands behind its
lanes.

- Processes: on Linux whoever starts a keeper is a subreaper (prctl(2)), as the keeper is. So what
  the keeper has started comes up below its grader when the keeper is killed, and is known by the
  hard limit on file sizes that each of them has from the keeper.
- Folders and containers: a keeper's owner knows them. For the case that both are killed, a lane
  writes them into a ledger of JSON lines, which grade-all reads: a file without a name, so that no
  submission puts something else in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from graders.harness import keeper_program

LEDGER = "WORKER_LABS_LEDGER"  # the variable with the number of its file descriptor
MOST = 4 << 20  # bytes of a ledger that are read; a grading writes some hundred
PREFIX = "wl-"  # of every folder that a run makes for itself
KEEPER_TIME = 60.0  # seconds that a keeper has to clean up behind its run; containers take some
NUDGE_EVERY = 3.0  # seconds after which who does not answer is told to go on
ORPHANS_TIME = 10.0  # seconds that orphans have to be gone, once they are killed
_ORPHAN = "orphan"


def adopt() -> None:
    """Have the orphans of a keeper that is killed come to this process. On Linux only."""
    if keeper_program.LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(keeper_program.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _Orphans(keeper_program.LinuxTable):
    """The processes below this one that a keeper has started, and that have no keeper any more."""

    def __init__(self) -> None:
        super().__init__({})
        own = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        self.own = b"unlimited" if own == resource.RLIM_INFINITY else b"%d" % own

    def find_marker(self, pid: int) -> str:
        _, _, rest = keeper_program.read_proc(f"/proc/{pid}/limits").partition(b"\nMax file size")
        hard = rest.partition(b"\n")[0].split()[1:2]
        return _ORPHAN if hard and hard[0] != self.own else ""


def end_orphans() -> None:
    """Kill all that a killed keeper has left below this process."""
    if not keeper_program.LINUX:
        return
    table = _Orphans()
    until = time.monotonic() + ORPHANS_TIME
    while time.monotonic() < until:
        stopped = keeper_program.Stopped()
        for _ in range(100):
            if not table.stop(_ORPHAN, frozenset(), stopped):
                break
        stopped.kill()
        for pid in stopped.pids:
            with contextlib.suppress(OSError):  # it may be the child of another orphan
                if os.waitpid(pid, os.WNOHANG)[0]:
                    table.forget(pid)
        if not stopped.pids:
            return
        time.sleep(keeper_program.KILL_EVERY)  # nobody tells when those of other parents have gone


def end_marked(run: str) -> None:
    """Kill all that the keeper of this run has started, as far as environments tell."""
    with contextlib.suppress(Exception):
        keeper_program.kill_everything_marked(f"{run}/")


def remove(folders: Iterable[str], labels: Iterable[str]) -> None:
    """Remove folders, and the containers with these labels. What is gone already is no error."""
    for label in labels:
        keeper_program.remove_containers(label)
    for folder in folders:
        with contextlib.suppress(Exception):
            keeper_program.remove_folder(folder)


def await_end(process: subprocess.Popen[bytes], bound: float, nudge: Callable[[], None]) -> None:
    """Wait for the end of a process for so many seconds, letting it go on should it be stopped."""
    until = time.monotonic() + bound
    while process.poll() is None and time.monotonic() < until:
        nudge()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(NUDGE_EVERY)


# Of a lane


def note(run: str, **what: Any) -> None:
    """Write into the ledger, if there is one, what is to be cleared away should this process end.

    `run` is a keeper's; `what` is one of `keeper` (see `known`), `folder`, `container`, or
    `closed`, with which the others of that run are settled.
    """
    ledger = os.environ.get(LEDGER, "")
    if ledger.isdigit():
        with contextlib.suppress(OSError):
            os.write(int(ledger), json.dumps({"run": run, **what}).encode() + b"\n")


def known(pid: int) -> list[int | float]:
    """A process, so that it is known again: its pid, and when it began."""
    fields = keeper_program.stat_fields(pid)
    if fields is not None:  # in ticks since boot, which no change of the clock touches
        return [pid, int(fields[19])]
    with contextlib.suppress(psutil.Error):
        return [pid, psutil.Process(pid).create_time()]
    return [pid, -1]


class Ledger:
    """The ledger of one lane, as grade-all holds it."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the lane
        self.fd = os.open(f"/dev/fd/{self._file.fileno()}", os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        """No more of it."""
        if not self._file.closed:
            os.close(self.fd)
            self._file.close()

    def read(self) -> list[dict[str, Any]]:
        """What is to be cleared away by now; nothing once it is closed."""
        notes: list[dict[str, Any]] = []
        if self._file.closed:
            return notes
        for line in os.pread(self._file.fileno(), MOST, 0).splitlines():
            # Whoever runs as the same user can write nonsense into it.
            with contextlib.suppress(ValueError, RecursionError):
                told = json.loads(line[:8192])
                if isinstance(told, dict):
                    notes.append(told)
        closed = {str(each.get("run")) for each in notes if "closed" in each}
        return [each for each in notes if str(each.get("run")) not in closed]


def settle(notes: Iterable[dict[str, Any]]) -> None:
    """Clear away what a process has left that has ended. Raises nothing.

    Its keepers do it if they live; what they do not, is done here.
    """
    notes = list(notes)
    until = time.monotonic() + KEEPER_TIME
    for each in notes:
        with contextlib.suppress(psutil.Error, OSError, TypeError, ValueError, OverflowError):
            pid, began = each.get("keeper", (0, 0))
            if began and known(pid) == [pid, began]:
                _await_keeper(psutil.Process(pid), until)
    end_orphans()
    if not keeper_program.LINUX:
        for run in {each["run"] for each in notes if isinstance(each.get("run"), str)}:
            end_marked(run)
    folders = (str(each["folder"]) for each in notes if "folder" in each)
    remove((f for f in folders if Path(f).name.startswith(PREFIX)),
           (str(each["container"]) for each in notes if "container" in each))


def _await_keeper(keeper: psutil.Process, until: float) -> None:
    """Wait until a keeper has cleaned up, and let it go on should it have been stopped.

    Who is stopped again and again does not come to its end, and is killed. Raises psutil.Error.
    """
    while time.monotonic() < until:
        keeper.send_signal(signal.SIGCONT)
        with contextlib.suppress(psutil.TimeoutExpired):
            keeper.wait(NUDGE_EVERY)
            return
    if keeper.status() == psutil.STATUS_STOPPED:
        keeper.kill()
        keeper.wait(NUDGE_EVERY)
