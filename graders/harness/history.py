"""The history of one check: an append-only list of events on one clock.

Every room of the harness that observes something adds an event; checks wait for events and judge
them; reports draw them. Nothing is ever changed or taken back, and everything may be called from
any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graders.harness import places

# What an event can be. The text after each is what its `data` holds.
TASK_ADDED = "task-added"  # task: id, label: how findings call it ("T1")
STARTED = "started"  # pid, command
SIGNAL = "signal"  # signal: "SIGTERM" …; sent by the check
EXIT = "exit"  # code: exit status, or None; signal: name of the signal that ended it, or None
LOG = "log"  # stream: "stdout" or "stderr"; line: decoded, without its newline
STEP_ARRIVED = "step-arrived"  # step: the Step; it has reached the proxy, not yet the server
STEP_ANSWERED = "step-answered"  # step: the server's whole answer is here, not yet delivered
STEP_DELIVERED = "step-delivered"  # step: the answer was handed to the client
CONNECTED = "connected"  # connection: number; a client opened a connection
DISCONNECTED = "disconnected"  # connection: number, by: "client", "server" or "check"
ROW_CHANGED = "row-changed"  # task, old, new: statuses (None: inserted/deleted), worker, backend
CALL_ARRIVED = "call-arrived"  # call: the world's Call
CALL_ANSWERED = "call-answered"  # call: with its answer
CALL_LOST = "call-lost"  # call: its caller hung up before it was answered
CAP = "cap"  # cap: "output" | "memory" | "processes" | "files"; text says how much
REQUEST_SENT = "request-sent"  # request: a client's Request to an API; to: the API's name
REQUEST_ANSWERED = "request-answered"  # request: with its answer, or why there is none
LOOKED = "looked"  # the grader's own question to an API has ended; shown nowhere
NOTE = "note"  # anything a check wants to be seen in the timeline

TURN = 0.2  # seconds of a wait that are counted at once


@dataclass(frozen=True)
class Event:
    """Something that happened. `at` is in seconds since the history began."""

    n: int
    at: float
    kind: str
    who: str  # the lane: a process ("worker-1"), "postgres", "redis", "world" or "grader"
    text: str  # in words, for a timeline
    data: Mapping[str, Any] = field(default_factory=dict)


class History:
    """Events in the order they were seen, and ways to wait for the next one."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._closed = False

    def now(self) -> float:
        """Seconds since the history began."""
        return time.monotonic() - self._began

    def add(self, kind: str, who: str, text: str, **data: Any) -> Event:
        """Append an event and wake everybody who waits for one."""
        with self._changed:
            event = Event(len(self._events), self.now(), kind, who, text, data)
            if not self._closed:
                self._events.append(event)
                self._changed.notify_all()
            return event

    @property
    def closed(self) -> bool:
        """Whether the check is over."""
        return self._closed

    def close(self) -> None:
        """Take no more events (the check is over) and wake everybody who still waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def events(self, *kinds: str, who: str | None = None, since: int = 0) -> list[Event]:
        """All events of these kinds (or all), of one lane (or all), from number `since` on."""
        with self._changed:
            seen = self._events[since:]
        return [e for e in seen if (not kinds or e.kind in kinds) and (who is None or e.who == who)]

    def __len__(self) -> int:
        return len(self._events)

    def wait(self, wanted: Callable[[Event], bool], timeout: float, since: int = 0) -> Event | None:
        """The first event from number `since` on that is wanted; None after `timeout` seconds."""
        return self.wait_until(
            lambda events: next((e for e in events if wanted(e)), None), timeout, since
        )

    def wait_until(
        self, answer: Callable[[Iterable[Event]], Any], timeout: float, since: int = 0
    ) -> Any:
        """Ask `answer` about the events from `since` on, again at each new one, until it is true.

        Returns what it answered, or the last (false) answer after `timeout` seconds. They are
        counted in short turns, each at no more than its length: a machine that stands still for a
        while, or gives the grader no time, uses up no more than one of them.
        """
        left = timeout
        with self._changed:
            while True:
                got = answer(self._events[since:])
                if got or left <= 0 or self._closed:
                    return got
                turn = min(left, TURN)
                began = time.monotonic()
                self._changed.wait(turn)
                left -= min(time.monotonic() - began, turn)
                places.waited(timeout - left)
