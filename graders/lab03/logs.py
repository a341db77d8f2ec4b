"""Judging log lines by what they contain, not by their wording.

Arrival times of two channels are never compared: a line may come a moment after the event that it
tells of, so each expectation waits, within the work budget, for its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from graders.harness.worker import Worker

_TIMESTAMP = re.compile(
    r"(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
)


def names(*words: str) -> Callable[[str], bool]:
    """A line in which all these words stand, whatever their case."""
    return lambda line: all(word.lower() in line.lower() for word in words)


def names_the_number(*numbers: str) -> Callable[[str], bool]:
    """A line in which one of these numbers stands by itself."""
    plain = "|".join(rf"(?<![\d.,]){re.escape(n)}0*(?:\.0*)?(?![\d.,]*\d)" for n in numbers)
    # Without its zero, with a comma, and as Python prints a timedelta.
    others = "|".join(
        rf"(?<![\d.,])(?:0?[.,]{n[2:]}0*|0:00:00\.{n[2:]}0*)(?![\d.,]*\d)"
        for n in numbers
        if n.startswith("0.")
    )
    wanted, elsewhere = re.compile(plain), re.compile(others or r"(?!)")
    return lambda line: bool(wanted.search(_TIMESTAMP.sub(" ", line)) or elsewhere.search(line))


def names_and_a_number(word: str, ignore: tuple[str, ...] = ()) -> Callable[[str], bool]:
    """A line with this word and a number that is no part of it, of a time or of what to ignore."""

    def judge(line: str) -> bool:
        if word.lower() not in line.lower():
            return False
        rest = line.lower().replace(word.lower(), " ")
        for other in ignore:
            rest = rest.replace(other.lower(), " ")
        return bool(re.search(r"\d", _TIMESTAMP.sub(" ", rest)))

    return judge


def expect_line(
    worker: Worker, expected: str, wanted: Callable[[str], bool], since: int = 0
) -> int:
    """Wait for such a line, from line number `since` on; the number of the line after it."""

    def found(_: object) -> int:
        for number, line in enumerate(worker.lines[since:], since):
            if wanted(line):
                return number + 1
        return 0

    number = _wait(worker, found)
    if not number:
        raise _missing(worker, expected, "No such line has come.")
    return number


def expect_lines(worker: Worker, count: int, expected: str, since: int = 0) -> None:
    """Wait until there are so many lines; a finding tells how many came from `since` on."""
    if not _wait(worker, lambda _: len(worker.lines) >= count):
        came = len(worker.lines) - since
        raise _missing(worker, expected, f"{came} line{'s have' if came != 1 else ' has'} come.")


def _wait(worker: Worker, wanted: Callable[[object], object]) -> object:
    """Wait for a line that a living worker writes; one that has ended writes none any more."""
    got = worker.lab.history.wait_until(
        lambda events: wanted(events) or not worker.alive, worker.lab.budgets.work
    )
    return got if got is not True else wanted(())


def _missing(worker: Worker, expected: str, seen: str) -> Exception:
    seen += " (A line counts once it has left the worker: see whether it is flushed.)"
    return worker.lab.finding("log-line-missing", expected, seen, worker.log_evidence(12))
