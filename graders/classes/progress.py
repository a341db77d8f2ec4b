"""What is seen while a class is graded: a line for each student, and one that is rewritten."""

from __future__ import annotations

import time
from typing import TextIO

from graders.classes.scores import NOT_GRADED, Row
from graders.harness.report.progress import Progress, bar
from graders.harness.report.text import Line, clean, cut, emit, pad
from graders.harness.results import COULD_NOT_GRADE

NAMES = 34  # columns for a student
WIDTH = 100


class ClassProgress(Progress):
    """A line for each student as it ends, also in a pipe; on a terminal a bar with the time left.

    Called by one thread at a time.
    """

    def __init__(self, out: TextIO, total: int, jobs: int, color: bool) -> None:
        super().__init__(out, total, color=color)
        self._jobs = max(1, jobs)
        self._begun: dict[str, tuple[str, float]] = {}  # of a student: the name, and since when
        self._done = 0
        self._taken: list[float] = []  # seconds of each that was graded in this run

    def begin(self, student: str, name: str) -> None:
        """This one is being graded now; two students may have the same name."""
        self._begun[student] = name, time.monotonic()
        self._bar()

    def end(self, row: Row, kept: bool) -> None:
        """This one is done; `kept` if an earlier run had graded it."""
        _, began = self._begun.pop(row.record.student, ("", time.monotonic()))
        self._done += 1
        if not kept:
            self._taken.append(time.monotonic() - began)
        self._rewrite("")
        emit([_line(self._done, self.total, row, kept)], self.out, color=self.color)
        self.out.flush()
        self._bar()

    def _bar(self) -> None:
        if self._done >= self.total:
            return
        line = f"{bar(self._done, self.total)} {self._done} of {self.total}"
        if left := self._left():
            line += f", about {left} left"
        if self._begun:
            line += f"  now: {', '.join(clean(name) for name, _ in self._begun.values())}"
        self._rewrite(cut(line, WIDTH - 1))

    def _left(self) -> str:
        """The time that the rest will take if it is like what was graded so far.

        Those that are under way count with what they have taken: else a long one at the beginning
        would not be seen before its end.
        """
        if len(self._taken) < 2 * self._jobs:
            return ""
        running = [time.monotonic() - began for _, began in self._begun.values()]
        each = (sum(self._taken) + sum(running)) / (len(self._taken) + len(running))
        rest = self.total - self._done - len(running)
        return duration((each * rest + sum(max(0.0, each - r) for r in running)) / self._jobs)


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "1 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _line(number: int, total: int, row: Row, kept: bool) -> Line:
    width = len(str(total))
    line: Line = [("dim", f"{number:>{width}}/{total}  "),
                  ("", pad(clean(row.record.name), NAMES) + "  ")]
    room = WIDTH - 2 * width - 3 - NAMES - 2
    if row.state == NOT_GRADED:
        line.append(("fault", cut(f"not graded: {clean(row.why_not)}", room)))
        return line
    points = f"{row.points:>3} of {row.possible:<3}"
    style = "good" if row.points == row.possible else ""
    took = "as before" if kept else f"{60 * row.record.minutes:.0f} s"
    told = ", ".join(row.findings)
    if ungraded := row.count(COULD_NOT_GRADE):
        told = f"{ungraded} could not be graded" + (f"; {told}" if told else "")
    line += [(style, points), ("dim", f"  {took:>9}  ")]
    line.append(("", cut(told, room - len(points) - 13)))
    return line
