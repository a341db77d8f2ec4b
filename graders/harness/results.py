"""The one result model: what a graded lab is, before anybody writes it down.

The terminal, `results.json` and every later report are drawn from these and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASSED = "passed"
FAILED = "failed"
NOT_CHECKED = "not-checked"  # a check that it needs has failed
COULD_NOT_GRADE = "could-not-grade"  # the kit's fault; never costs points
VERDICTS = (PASSED, FAILED, NOT_CHECKED, COULD_NOT_GRADE)

HELD = "held"  # what an exploration says of a moment at which all was well
NOT_EXPLORED = "not explored"

NO_SUCH_STEP = "There is no STEP="  # how the reason begins where STEP= names no moment

EXIT_FULL_MARKS = 0
EXIT_MARKS_LOST = 1
EXIT_COULD_NOT_GRADE = 2

SCHEMA_VERSION = 1

# What a row of a timeline can be: a drawing has a shape for each.
ADDED = "added"  # the grader puts tasks in place
START = "start"
SIGNAL = "signal"
KILL = "kill"  # SIGKILL
EXIT = "exit"
LOG = "log"
MESSAGE = "message"  # a statement, a command, a request; its answer too, if nothing came between
UNANSWERED = "unanswered"  # a message whose answer the sender never got
ANSWER = "answer"
CLOSE = "close"  # a connection, in good order
CUT = "cut"  # a connection, in any other way
STATUS = "status"  # what became of a task
WORK = "work"  # the call that executes a task
WORK_DONE = "work-done"  # its answer
WORK_LOST = "work-lost"  # the caller hung up before it
FOUND = "found"  # the finding, where it has a row of its own
NOTE = "note"
GAP = "gap"  # stands for rows that were left out
ROW_KINDS = (ADDED, START, SIGNAL, KILL, EXIT, LOG, MESSAGE, UNANSWERED, ANSWER, CLOSE, CUT, STATUS,
             WORK, WORK_DONE, WORK_LOST, FOUND, NOTE, GAP)


@dataclass(frozen=True)
class Evidence:
    """One thing that was seen: a row, some log lines, a statement."""

    title: str  # "The row of T1 at the end", "The last lines of worker-1"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class FindingReport:
    """What broke, as a true sentence about what happened."""

    code: str  # stable: "task-executed-twice"
    expected: str  # the one expectation that broke: "The worker exits with status 0 …"
    seen: str  # what was seen instead: "It ended with status 143 (SIGTERM) …"
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class TimelineRow:
    """One line of a timeline: who did what, when."""

    at: float  # seconds since the check began
    lane: str  # "worker-1", "postgres", "redis", "world", "grader"
    to: str | None  # the lane it went to, for a message; None for what a lane did by itself
    text: str
    mark: str = ""  # "broke" on the row at which the finding was made
    # For drawings; the text says all of it in words.
    kind: str = NOTE  # one of ROW_KINDS
    tasks: tuple[str, ...] = ()  # the labels of the tasks it is about
    was: str = ""  # of a task that changed: its status before, "" where there was none
    status: str = ""  # the status that it has now; "" once it is deleted
    worker: str = ""  # the process that has it in hand now, or that works on it
    detail: str = ""  # the whole statement, where the text shortens it


@dataclass(frozen=True)
class MomentResult:
    """One moment of an exploration, and what came of it."""

    step: str  # the label that STEP= takes: "7b"
    words: str  # "killed after PostgreSQL had committed …"
    scenario: str  # "one pending task"
    outcome: str  # HELD, NOT_EXPLORED, or a finding's code
    told: str = ""  # what broke, or why it was not explored


@dataclass(frozen=True)
class Coverage:
    """What an exploration has tried: all of it, in order."""

    noun: str  # "crash point"
    count: int  # of those that were carried out
    moments: tuple[MomentResult, ...] = ()
    unexplored: tuple[str, ...] = ()  # steps that did not come on every run


@dataclass(frozen=True)
class CheckResult:
    """One check's outcome."""

    name: str
    exercise: str  # "3a"
    title: str  # the rubric line: the docstring's first sentence
    why: str  # the rest of the docstring
    points: int
    verdict: str
    needs: tuple[str, ...] = ()
    reason: str = ""  # for not-checked and could-not-grade: one sentence
    finding: FindingReport | None = None
    steps: tuple[str, ...] = ()  # the numbered steps that led there, without their numbers
    timeline: tuple[TimelineRow, ...] = ()
    coverage: Coverage | None = None  # of a check that explores every moment
    seconds: float = 0.0
    drawing: str = ""  # the file beside results.json in which its timeline is drawn

    @property
    def earned(self) -> int:
        """Points earned: all of them or none."""
        return self.points if self.verdict == PASSED else 0


@dataclass(frozen=True)
class LabResult:
    """A whole graded run of one lab."""

    lab: str  # "lab03"
    title: str
    submission: str  # the folder as the user named it
    kit_version: str
    services: dict[str, str]  # {"postgres": "embedded (PostgreSQL 18.6)"}
    seed: int
    started: str  # RFC 3339, UTC
    seconds: float
    exercises: dict[str, str]  # "3a" -> its title, in order
    checks: tuple[CheckResult, ...]
    partial: bool = False  # only some checks were asked for (CHECK=…)
    unanswered: tuple[str, ...] = ()  # questions of ANSWERS.md without an answer
    notes: tuple[str, ...] = ()  # one-line remarks ("using embedded servers: no Docker engine …")
    extra: dict[str, Any] = field(default_factory=dict)
    folder: str = ""  # where it is written, as its reader names it: "reports/lab03"

    @property
    def points(self) -> int:
        """Points to be had in this run."""
        return sum(check.points for check in self.checks)

    @property
    def earned(self) -> int:
        """Points earned in this run."""
        return sum(check.earned for check in self.checks)

    @property
    def exit_status(self) -> int:
        """0 full marks, 1 marks lost, 2 could not grade (which wins)."""
        if any(check.verdict == COULD_NOT_GRADE for check in self.checks):
            return EXIT_COULD_NOT_GRADE
        if all(check.verdict == PASSED for check in self.checks) and self.checks:
            return EXIT_FULL_MARKS
        return EXIT_MARKS_LOST
