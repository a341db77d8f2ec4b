"""Steps and gates: what wires and the world share.

A step is one unit of conversation between a process and a server (or the world), in words. A gate
decides when it goes on. Steps have names that are the same in each run of the same worker.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graders.harness.history import (
    NOTE,
    STEP_ANSWERED,
    STEP_ARRIVED,
    STEP_DELIVERED,
    History,
)
from graders.harness.loop import LoopThread


class Drop(Exception):
    """Raised by a gate: swallow this message, or this answer."""


class Cut(Exception):
    """Raised by a gate: cut the connection this step is on, now."""


@dataclass(frozen=True)
class Statement:
    """One SQL statement or Redis command as it was run. A null parameter is None."""

    sql: str
    params: tuple[str | None, ...] = ()


@dataclass(eq=False)
class Step:
    """One unit of conversation. Times are on the history's clock; None until then."""

    process: str  # "worker-1"
    connection: int  # a label only: pools rotate
    kind: str  # connect query prepare check command reply close call call-answer
    words: str  # one line: "UPDATE tasks SET status = $1 WHERE id = $2", "COMMIT"
    server: str = ""  # the lane it went to: "postgres", "redis" or "world"
    statements: tuple[Statement, ...] = ()
    name: str = ""  # what was said since BEGIN on its connection, without what varies by run
    occurrence: int = 0  # of that name in this process, from 1
    tags: tuple[str, ...] = ()  # the server's word: "SELECT 1", "UPDATE 0"
    error: str | None = None  # the server's error message
    sqlstate: str | None = None
    status: str = ""  # transaction status after it: "I" idle, "T" in one, "E" failed
    status_before: str = ""
    backend: int | None = None  # PostgreSQL: the backend's pid
    fate: str | None = None  # "dropped" or "cut", where a gate decided so
    data: dict[str, Any] = field(default_factory=dict)  # a world's step: call
    arrived_at: float | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    delivered_at: float | None = None

    @property
    def label(self) -> str:
        """Its name and, from the second on, which one: what tables and messages show."""
        return self.name if self.occurrence < 2 else f"{self.name} ({self.occurrence})"


class Gate:
    """Decides when a step goes on. Both methods run on the loop and may wait for long.

    Return to let it go on; raise Drop or Cut. A gate is asked about one step of a connection at a
    time; steps of other connections go their way meanwhile.
    """

    async def before(self, step: Step) -> None:
        """It has arrived and has not been sent to the server."""

    async def after(self, step: Step) -> None:
        """The server's whole answer is here and has not been delivered."""


class Hold(Gate):
    """Holds the steps that match until it is released; used from check threads.

    `times` is how many steps it catches; `steps` lists those caught so far.
    """

    def __init__(
        self, owner: Gated, match: Callable[[Step], bool], when: str, times: int | None
    ) -> None:
        if when not in ("before", "after"):
            raise ValueError(f"when is {when!r}, not 'before' or 'after'")
        self.when = when
        self.steps: list[Step] = []
        self._owner = owner
        self._match = match
        self._left = times
        self._reached = threading.Condition()
        self._handed_out = 0
        self._waiting: deque[tuple[Step, asyncio.Future[None]]] = deque()  # loop
        self._ended = False  # loop

    def wants(self, when: str, step: Step) -> bool:
        """Whether this step is to be held here (loop). Counts it if so: ask once."""
        if when != self.when or self._left == 0 or not self._match(step):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    async def before(self, step: Step) -> None:
        """Wait for the release (loop)."""
        await self._wait(step)

    async def after(self, step: Step) -> None:
        """Wait for the release (loop)."""
        await self._wait(step)

    def wait_reached(self, timeout: float) -> Step | None:
        """The next step held here that was not handed out before; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._reached:
            while len(self.steps) <= self._handed_out:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._reached.wait(left)
            self._handed_out += 1
            return self.steps[self._handed_out - 1]

    def release(self) -> None:
        """Let everything held go on, and hold nothing more."""
        self._end(None)

    def drop(self) -> None:
        """Swallow what is held (the message, or the answer), and hold nothing more."""
        self._end(Drop)

    def cut(self) -> None:
        """Cut the connections of what is held, and hold nothing more."""
        self._end(Cut)

    def next(self) -> None:
        """Let the first one that is held go on; the hold still catches what it may."""
        self._owner.loop.call_soon(self._let_one_go)

    async def _wait(self, step: Step) -> None:
        if self._ended:  # while the step was at another gate
            return
        going: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (step, going)
        self._waiting.append(entry)
        with self._reached:
            self.steps.append(step)
            self._reached.notify_all()
        try:
            await going
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _let_one_go(self) -> None:
        if self._waiting:
            _, going = self._waiting.popleft()
            if not going.done():
                going.set_result(None)

    def _end(self, decision: type[Exception] | None) -> None:
        # Not waited for: a check may do this while it holds the history's lock, which the loop
        # may be waiting for.
        self._left = 0
        self._owner.loop.call_soon(self._open, decision)

    def _open(self, decision: type[Exception] | None) -> None:
        self._ended = True
        self._owner._forget(self)
        while self._waiting:
            _, going = self._waiting.popleft()
            if going.done():
                continue
            if decision is None:
                going.set_result(None)
            else:
                going.set_exception(decision())


class Gated:
    """What wires and the world share: a gate, holds, and the names of steps."""

    def __init__(self, loop: LoopThread, history: History) -> None:
        self.loop = loop
        self.history = history
        self.gate: Gate | None = None
        self._holds: list[Hold] = []
        self._said: Counter[tuple[str, str]] = Counter()

    def hold(
        self, match: Callable[[Step], bool], when: str = "before", times: int | None = 1
    ) -> Hold:
        """Hold the next `times` steps (None: all) that match, before or after the server's word."""
        hold = Hold(self, match, when, times)
        self._holds.append(hold)
        return hold

    def _forget(self, hold: Hold) -> None:
        if hold in self._holds:
            self._holds.remove(hold)

    def _gates(self, when: str, step: Step) -> list[Gate]:
        """The gates this step has to pass here; mostly none (loop)."""
        gates: list[Gate] = []
        for hold in list(self._holds):
            try:
                if hold.wants(when, step):
                    gates.append(hold)
            except Exception as error:
                self.loop.errors.append(error)  # the check's own fault must not hang the worker
        if self.gate is not None:
            gates.append(self.gate)
        return gates

    async def _pass(self, gates: list[Gate], when: str, step: Step) -> str:
        """Wait at each gate: "go", "drop" or "cut" (loop)."""
        try:
            for gate in gates:
                await (gate.before(step) if when == "before" else gate.after(step))
        except Drop:
            step.fate = "dropped"
            what = "the message" if when == "before" else "the answer to"
            self.history.add(NOTE, "grader", f"drops {what} {step.words} of {step.process}",
                             step=step, fate="dropped")
            return "drop"
        except Cut:
            step.fate = "cut"
            return "cut"
        except Exception as error:
            self.loop.errors.append(error)  # a gate's own fault must not hang the worker
        return "go"

    def _arrived(self, step: Step) -> None:
        """Number its name and tell the history (loop)."""
        # Two workers that say the same of themselves say the same. ("api" is also a word.)
        if "-" in step.process or step.process == "survivor":
            step.name = step.name.replace(step.process, "(worker)")
        self._said[step.process, step.name] += 1
        step.occurrence = self._said[step.process, step.name]
        event = self.history.add(STEP_ARRIVED, step.process, step.words, step=step)
        step.arrived_at = event.at

    def _answered(self, step: Step, text: str) -> None:
        step.answered_at = self.history.now()
        self.history.add(STEP_ANSWERED, step.process, text, step=step)

    def _delivered(self, step: Step) -> None:
        step.delivered_at = self.history.now()
        self.history.add(STEP_DELIVERED, step.process, step.words, step=step)


_UUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?:-\d+)?\b")
_LITERAL = re.compile(r"'[^']*'")
_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|[+-]\d\d(?::?\d\d)?)?)?")
# Of a single digit is LIMIT 1; of more are intervals and times, which a trial may have changed.
_NUMBER = re.compile(r"(?<![\w$.])(?:\d{2,}(?:\.\d+)?|\d+\.\d+)(?![\w.])")


def nameable(words: str) -> str:
    """Words without what differs from run to run: ids, dates, numbers of more than a digit.

    Clients that put values into the SQL text (psql) get the same names in each run by this.
    """
    words = _MOMENT.sub("?", _UUID.sub("?", words))
    return _NUMBER.sub("?", _LITERAL.sub(_without_digits, words))


def _without_digits(literal: re.Match[str]) -> str:
    """A literal as it is, or as '?' where it has a digit: it may be another one on each run."""
    return "'?'" if any(char.isdigit() for char in literal[0]) else literal[0]
