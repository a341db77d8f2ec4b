"""One lane of a class: a process that grades one submission after the other, on its own servers.

    python -m graders.classes.lane

It reads orders from standard input, one JSON object per line, and answers each with one. The first
order says what is graded ({"lab": "lab03", "services": "auto"}); it is answered {"ready": notes}
once the servers run. Each of the others is a submission (see Order) and is answered {"graded":
true} when its results are written. {"share": 1.0} may come at any time and is not answered: so many
cores it may keep busy from then on. Whatever is the kit's own trouble is answered {"trouble": "one
sentence"}. At the end of its input it stops what is under way, and ends; its keepers clean up
behind it also when it is killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graders.classes import feedback, records
from graders.harness import settings
from graders.harness.catalog import checks_of, standing_servers
from graders.harness.results import COULD_NOT_GRADE, LabResult
from graders.harness.servers import ServerError, Services
from graders.harness.session import GradingSession, Options

FIRST = ".first"  # where the results of a first grading lie while there is a second one
# What is slower by more than that, other lanes have slowed for a moment; time limits that grow with
# it would be long for the whole grading.
SLOWEST = 2.0
END_TIME = 20.0  # seconds that a grading has to end after it was told to
TIMED_OUT = "The time limit of this submission ({:.0f} s) ended the run before this check ended."


@dataclass(frozen=True)
class Order:
    """A submission to grade."""

    folder: str  # holds its Procfile; it is not written to
    to: str  # the folder into which results.json, drawings and the feedback are written
    head: tuple[str, ...]  # what stands above the feedback
    limit: float  # seconds


class Lane:
    """The servers of a lane, and the grading that is under way."""

    def __init__(self, lab: settings.Lab, mode: str) -> None:
        self.lab = lab
        self.mode = mode
        self.services: Services | None = None
        self._servers = contextlib.ExitStack()
        self._session: GradingSession | None = None
        self._start_seconds = math.inf  # the least that a Python took to start here
        self._over = False

    def start(self) -> None:
        """Start the servers. Raises ServerError."""
        self._servers = contextlib.ExitStack()
        self.services = self._servers.enter_context(
            standing_servers(self.lab.services, self.mode)
        )

    def close(self) -> None:
        """Stop the servers."""
        self._servers.close()

    def end(self) -> None:
        """Nobody waits for results any more: stop what is under way. Called by another thread."""
        self._over = True
        if self._session is not None:
            self._session.report_path = None  # the next run may be writing there by now
            self._session.cut_short("The run was stopped.")

    def grade(self, order: Order) -> None:
        """Grade it; a run in which something could not be graded is done once more if time allows.

        The better of the two counts. Raises ServerError where there are no servers to do it on, or
        no place for its results.
        """
        began, to = time.monotonic(), Path(order.to)
        first = to / FIRST
        shutil.rmtree(first, ignore_errors=True)  # of a run that was killed
        result = self._on_servers(order, order.limit)
        took = time.monotonic() - began
        left = began + order.limit - time.monotonic()
        # With less time it would only be cut short.
        if _ungraded(result) and not self._over and left > took:
            first.mkdir()
            _move_results(to, first)
            again = self._on_servers(order, left)
            if _ungraded(again) < _ungraded(result):
                result = again
            elif not self._over:  # else the next run may be writing there by now
                _move_results(first, to)
            shutil.rmtree(first, ignore_errors=True)
        if not self._over:
            feedback.write(to, order.head, result)

    def _on_servers(self, order: Order, limit: float) -> LabResult:
        if not self.services.healthy():
            self.close()
            self.start()
        result = self._once(order, limit)
        if problem := result.extra.get("not_written"):
            raise ServerError(problem)
        return result

    def _once(self, order: Order, limit: float) -> LabResult:
        checks = checks_of(self.lab)
        options = Options.read(
            # As its author calls it: so commands and paths in the feedback are the author's own.
            called=f"starter/{self.lab.name}",
            LAB=self.lab.name, SRC=order.folder, SERVICES=self.mode,
        )
        session = GradingSession(
            self.lab.name, checks, options, write_to=Path(order.to), standing=self.services,
            slowest_start=SLOWEST * self._start_seconds,
        )
        self._session = session
        timer = threading.Timer(limit, session.cut_short, [TIMED_OUT.format(order.limit)])
        timer.daemon = True
        timer.start()
        session.start()
        try:
            if self._over:
                self.end()
            for name in checks:
                session.result_of(name)
        finally:
            timer.cancel()
            self._session = None
            result = session.finish()
        if session.start_seconds is not None:
            self._start_seconds = min(self._start_seconds, session.start_seconds)
        assert result is not None
        return result


def _ungraded(result: LabResult) -> int:
    """How many of its checks could not be graded."""
    return sum(check.verdict == COULD_NOT_GRADE for check in result.checks)


def _move_results(here: Path, to: Path) -> None:
    """Move what a grading has written. What is there gives way."""
    for old in records.written(to):
        old.unlink()
    for path in records.written(here):
        path.replace(to / path.name)


def main() -> int:
    """Serve until the input ends; 0, or 2 if the first order could not be carried out."""
    # What anything in here prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**told: Any) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more
            print(json.dumps(told), file=answers, flush=True)

    orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
    lanes: list[Lane] = []

    def read() -> None:
        for line in sys.stdin:
            told = json.loads(line)
            if "share" in told:
                os.environ[settings.SHARE] = str(told["share"])
            else:
                orders.put(told)
        orders.put(None)
        hangs = threading.Timer(END_TIME, os._exit, [1])  # what has not ended until then
        hangs.daemon = True
        hangs.start()
        for lane in lanes:
            lane.end()

    threading.Thread(target=read, name="orders", daemon=True).start()
    first = orders.get()
    if first is None:
        return 0
    lane = Lane(settings.lab(first["lab"]), first["services"])
    try:
        lane.start()
        lanes.append(lane)
        answer(ready=list(lane.services.notes))
        while (told := orders.get()) is not None:
            try:
                lane.grade(Order(**told))
            except ServerError as error:
                answer(trouble=str(error))
            except OSError as error:
                answer(trouble=f"The results cannot be written: {error.strerror or error}.")
            except Exception as error:  # a fault of the kit's: told, and the next one is graded
                answer(fault=f"The grader itself failed ({type(error).__name__}: {error}).")
            else:
                answer(graded=True)
    except ServerError as error:
        answer(trouble=str(error))
        return settings.EXIT_USAGE
    finally:
        lane.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
