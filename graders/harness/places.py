"""Places for work that mostly waits: a few, and more of them while nothing goes on.

A worker that does not do what it should is waited for, and then its trial takes no processor time
at all. Others can be under way meanwhile, without disturbing anybody: whoever waits for long gives
its place away, and as long as the processor is idle there are more places.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

WINDOW = 0.2  # seconds over which it is seen whether the processor is idle
SPARE = 0.6  # cores that are idle, at least, when one more is begun
LONG = 2.0  # seconds of one wait after which the place is given away; most waits are far shorter

_here = threading.local()  # the place of this thread


def waited(seconds: float) -> None:
    """Whoever has waited for one thing for so long, in this thread, may have to give up its place.

    It goes on all the same, and takes no other place: it has come to its end, as a rule.
    """
    place = getattr(_here, "place", None)
    if place is not None and seconds > LONG:
        place.give_away()


class Processor:
    """What this machine's cores have to do. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: tuple[float, float] | None = None  # when, and how long all cores had been idle

    def spare(self) -> bool:
        """Whether the cores have time for one thing more. True at most once per WINDOW.

        So what was begun has shown what it takes, before the next one is.
        """
        with self._lock:
            now = time.monotonic()
            if self._seen is not None and now - self._seen[0] < WINDOW:
                return False
            times = psutil.cpu_times()
            idle = times.idle + getattr(times, "iowait", 0.0)
            before, self._seen = self._seen, (now, idle)
            return before is not None and idle - before[1] >= SPARE * (now - before[0])


PROCESSOR = Processor()


# Asked anew each time: a run's share of the cores grows when others beside it have ended.
Number = int | Callable[[], int]


def _now(number: Number) -> int:
    return number() if callable(number) else number


class Bound:
    """How many may be under way in all, in one or several `Places`."""

    def __init__(
        self, most: Number, ceiling: int | None = None, at_work: Number | None = None
    ) -> None:
        """`ceiling`: what `most` never goes above, whatever it becomes.

        `at_work`: so many of them that have not given their places away, by default all.
        """
        self._most = most
        self.ceiling = _now(most) if ceiling is None else ceiling
        self._at_work = most if at_work is None else at_work
        self.count = 0
        self.given = 0  # of them, those that have given their places away
        self.changed = threading.Condition()

    @property
    def most(self) -> int:
        """How many that are now."""
        return min(_now(self._most), self.ceiling)

    @property
    def is_reached(self) -> bool:
        """Whether there are as many as there may be."""
        return self.count >= self.most or self.count - self.given >= _now(self._at_work)


class Places:
    """Places that are taken in the order in which they were asked for. For many threads."""

    def __init__(self, least: Number, bound: Bound, processor: Processor = PROCESSOR) -> None:
        """`least` places at any time, and more while the processor has time to spare.

        Those that have given their places away count among the most of the bound.
        """
        self._least = least
        self._bound = bound
        self._processor = processor
        self._changed = bound.changed
        self._waiting: deque[object] = deque()
        self._taken = 0
        self._under_way = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Wait for a place, and have it as long as this lasts, or until it is given away."""
        self._take()
        _here.place = mine = _Place(self)
        try:
            yield
        finally:
            _here.place = None
            mine.give_away()
            with self._changed:
                self._under_way -= 1
                self._bound.count -= 1
                self._bound.given -= 1
                self._changed.notify_all()

    def free(self) -> None:
        """One of those that were taken is free again."""
        with self._changed:
            self._taken -= 1
            self._bound.given += 1
            self._changed.notify_all()

    def _take(self) -> None:
        me = object()
        with self._changed:
            self._waiting.append(me)
            while self._waiting[0] is not me or not self._is_free():
                # Nobody tells when the processor becomes idle: the first in the queue asks.
                self._changed.wait(WINDOW if self._waiting[0] is me else None)
            self._waiting.popleft()
            self._taken += 1
            self._under_way += 1
            self._bound.count += 1
            self._changed.notify_all()

    def _is_free(self) -> bool:
        # One of each can always go on, whatever the others do.
        if self._under_way and self._bound.is_reached:
            return False
        return self._taken < _now(self._least) or self._processor.spare()


@dataclass
class _Place:
    """One place that is taken, by one thread."""

    places: Places
    given: bool = False

    def give_away(self) -> None:
        """Let another have it. What has it goes on."""
        if not self.given:
            self.given = True
            self.places.free()
