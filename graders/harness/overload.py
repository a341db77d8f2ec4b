"""Whether this machine is so busy that time limits say nothing.

They grow with how slow the machine was when the run began. If it is later kept busy by somebody
else (another submission, of dozens of processes that never rest), a right worker can miss them.
So it is measured before a finding is believed; what the submission that is graded does itself is
its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

import psutil

from graders.harness import keeper_program, settings
from graders.harness.budgets import NOMINAL_START

MUCH = 8  # processes for each core that want to run: it is measured how slow the machine is now
# Times slower than when the run began, or less where that is longer than LONGEST. A right worker
# needs a second to start, of 15 that it has, and is far quicker with all else.
SLOWER = 20
MEASURED = 2  # times in a row: what lasts a second or two harms nobody
LONGEST = 8.0  # seconds that are measured: whoever stops the run waits for it
HOLDS_FOR = 3.0  # seconds for which that holds: several checks may find something at once


class Overload:
    """What keeps time limits from saying anything in one run. For many threads."""

    def __init__(self, measure: Callable[[float], float | None]) -> None:
        """`measure`: seconds that a Python takes to start now, bounded by its argument, in seconds.

        None where that cannot be measured.
        """
        self._measure = measure
        self._lock = threading.Lock()
        self._asked_at = -HOLDS_FOR
        self._answer = ""

    def why(self, factor: float, above: int) -> str:
        """Why time limits say nothing now; "" if they do.

        `factor`: what those of this run are multiplied by. `above`: the process below which all
        that the submission has started is.
        """
        with self._lock:
            if time.monotonic() - self._asked_at >= HOLDS_FOR:
                allowed = min(SLOWER * NOMINAL_START * factor, LONGEST)
                self._answer = ""
                if self._is_slow(allowed) and not is_own_load(above):
                    self._answer = (
                        "This machine is too busy for time limits to say anything: a Python "
                        f"has not started after {allowed:.1f} s."
                    )
                self._asked_at = time.monotonic()
            return self._answer

    def _is_slow(self, allowed: float) -> bool:
        # In a container, those that wait for their share are not told of.
        if not settings.is_limited() and running() < MUCH * settings.cores():
            return False
        return all((self._measure(allowed) or 0.0) >= allowed for _ in range(MEASURED))


def running() -> float:
    """How many processes of this machine want to run, now or on average over the last minute."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        average = os.getloadavg()[0]
        fields = keeper_program.read_proc("/proc/loadavg").split()
        return max(average, int(fields[3].partition(b"/")[0]) if fields else 0)
    return 0.0


def is_own_load(above: int) -> bool:
    """Whether most of what wants to run is below this process, a run's keeper."""
    own = 0
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(above).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                own += process.status() == psutil.STATUS_RUNNING
    return own > running() / 2
