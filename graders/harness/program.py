"""One process of a submission in a check: started, told things, and what is expected of it.

A worker, an API and a migration are programs alike: a process behind a proxy to its store. What is
particular to each is in `worker.py`, `jobs.py` and `api.py`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graders.harness import history as h
from graders.harness.process import Exit, Process
from graders.harness.results import Evidence
from graders.harness.steps import Hold, Step
from graders.harness.submission import Submission
from graders.harness.wire import Wire
from graders.harness.world import Call

if TYPE_CHECKING:
    from graders.harness.room import Room

CAP_FINDINGS = {
    "output": "output-flood",
    "memory": "memory-exhausted",
    "processes": "too-many-processes",
    "disk": "disk-filled",
    "files": "disk-filled",
}
SAID = ("query", "command", "reply", "connect", "close")  # kinds of steps that are shown


class Program:
    """A process of the submission that a check has started."""

    role = "worker"  # of the Procfile
    store = "PostgreSQL"  # what it keeps its data in, as messages call it
    exited = "worker-exited"  # the finding when it ends and nothing has told it to

    def __init__(self, lab: Room, name: str) -> None:
        self.lab = lab
        self.name = name
        self.submission: Submission | None = None  # whose program it is; None: that is graded
        self.wire: Wire | None = None
        self.process: Process | None = None
        self._hold: Hold | None = None  # where its steps are held, if the check asked for that
        self._holds: Callable[[Step], bool] = lambda _: False
        self._stopping = False  # a signal was sent: its exit is no surprise

    def run(
        self,
        variables: Mapping[str, str | None],
        *,
        hold: Callable[[Step], bool] | None = None,
        hold_before: Callable[[Step], bool] | None = None,
        arguments: tuple[str, ...] = (),
        cwd: Path | None = None,
        prepare: Callable[[Program], None] | None = None,
    ) -> None:
        """Start it behind its proxy. Does not wait for anything.

        `variables` come on top of those that name its store; None removes one. `cwd` is the folder
        that it is started in, by default the copy of the submission. `prepare` is called when its
        proxy is there and it is not.
        """
        lab, session = self.lab, self.lab.session
        self.wire, named = self.proxied()
        if prepare is not None:
            prepare(self)
        if hold is not None:
            self._hold, self._holds = self.wire.hold(hold, when="after", times=None), hold
        elif hold_before is not None:
            self._hold = self.wire.hold(hold_before, when="before", times=None)
        environment = session.environment()
        for key, value in {**named, **variables}.items():
            if value is None:
                environment.pop(key, None)
            else:
                environment[key] = value
        self.process = session.spawn(
            self.role, f"{lab.check_name}.{self.name}", self.name, environment, lab.history,
            arguments, cwd, self.submission,
        )

    def proxied(self) -> tuple[Wire, dict[str, str]]:
        """Its started proxy, and the variables that name its store to it."""
        return self.lab.proxy(self.name)

    # What it is

    @property
    def alive(self) -> bool:
        """Whether its process has not ended yet."""
        return self.process is not None and self.process.exit is None

    @property
    def backends(self) -> set[int]:
        """The PostgreSQL backends of its open connections."""
        return {c.backend for c in self.wire.connections if c.backend}

    def steps(self, kind: str = h.STEP_DELIVERED, since: int = 0) -> list[Step]:
        """Its steps that have come so far (delivered, unless another event is asked for)."""
        return [e.data["step"] for e in self.lab.history.events(kind, who=self.name, since=since)]

    @property
    def calls(self) -> list[Call]:
        """Its calls of the outside world so far."""
        return [call for call in self.lab.world.calls if call.process == self.name]

    # Waiting

    def wait(self, wanted: Any, budget: float, since: int = 0) -> Any:
        """Wait until `wanted(events)` is true, the worker has ended, or the budget is used up."""
        got = self.lab.history.wait_until(
            lambda events: wanted(events) or not self.alive, budget, since
        )
        return got if got is not True or self.alive else wanted(())

    @property
    def held_step(self) -> Step | None:
        """The step that is held now, after the server's word; None if there is none."""
        for step in self.steps(h.STEP_ANSWERED):
            if self._holds(step) and step.delivered_at is None and step.fate is None:
                return step
        return None

    def wait_held_or_call(self, timeout: float) -> Step | None:
        """The next step that is held; None if it calls the world, ends or does neither first."""

        def done(_: Any) -> Any:
            return self.held_step or self.calls or not self.alive

        self.lab.history.wait_until(done, timeout)
        return self.held_step

    def let_go(self) -> None:
        """Deliver the answer that is held; the next one that matches is held again."""
        step = self.held_step
        if step is not None:
            self._hold.next()
            self.lab.history.wait_until(
                lambda _: step.delivered_at is not None or not self.alive, self.lab.budgets.work
            )

    def hold_no_more(self) -> None:
        """Deliver what is held, and hold nothing from here on."""
        self._hold.release()

    # Signals and its end

    def terminate(self, taken: bool = True) -> None:
        """Send SIGTERM to it, as `docker stop` and every deploy do; return once it was taken."""
        self._signal(signal.SIGTERM, taken)

    def interrupt(self) -> None:
        """Send SIGINT to its process group, as Ctrl-C does; return once it was taken."""
        self._signal(signal.SIGINT, True)

    def _signal(self, signum: signal.Signals, taken: bool) -> None:
        self._stopping = True
        self.lab.tell(f"Sent {signum.name} to {self.name}.")
        if signum == signal.SIGINT:
            self.process.interrupt()
        else:
            self.process.signal(signum)
        if taken:
            self.process.wait_signal_taken(self.lab.budgets.shutdown)

    def kill(self) -> None:
        """Kill it (SIGKILL, the whole tree), and end what its store still does for it.

        A server does not notice a dead client: a statement that waits for a lock could still commit
        later. So the connections are cut, and the sessions waited for.
        """
        self._stopping = True
        backends = self.backends
        self.process.kill()
        self.wire.cut()
        self.lab.end_sessions(backends)
        self.lab.tell(f"Killed {self.name} with SIGKILL.")

    def expect_alive(self) -> None:
        """It is still running: it did not end at the signal that it has just taken."""
        if not self.alive:
            self.fail_if_ended(f"{self.name} finishes what it has begun before it ends.", True)

    def expect_exit(self, code: int = 0, *, task: Any = None) -> None:
        """It ends by itself, with this exit status, within the shutdown budget."""
        lab = self.lab
        budget = lab.budgets.shutdown
        ended = lab.history.wait_until(lambda _: self.process.exit, budget)
        lab.tell(f"Waited for {self.name} to end.")
        if ended is None:
            raise lab.finding(
                "still-running",
                f"{self.name} stops, with exit status {code}.",
                f"{budget:.0f} s after the signal it was still running.",
                self.statement_evidence(),
                self.log_evidence(),
            )
        if task is not None:
            self.expect_not_dropped(task)
        if ended.code != code:
            raise lab.finding(
                "wrong-exit-status",
                f"{self.name} stops, with exit status {code}.",
                f"It {how_it_ended(ended)}.",
                self.log_evidence(),
            )

    def expect_ready(self) -> None:
        """It has started, and can be spoken to. Raises a Finding."""
        raise NotImplementedError

    def expect_not_dropped(self, task: Any) -> None:
        """The task that was in hand at the signal has been recorded, now that it has ended."""
        raise NotImplementedError

    def fail_if_ended(self, expected: str, although_stopping: bool = False) -> None:
        """Raise the finding that says how it ended, if it has ended and nothing told it to."""
        self.fail_if_capped(expected)
        if self.alive or self.process is None or (self._stopping and not although_stopping):
            return
        code = "task-dropped-on-stop" if self._stopping else self.exited
        raise self.lab.finding(
            code, expected, f"{self.name} {how_it_ended(self.process.exit)}.", self.log_evidence()
        )

    def fail_if_capped(self, expected: str) -> None:
        """Raise the finding that says which limit it has gone over, if it has."""
        capped = self.lab.history.events(h.CAP, who=self.name)
        if capped:
            raise self.lab.finding(
                CAP_FINDINGS.get(capped[0].data["cap"], "output-flood"),
                expected,
                f"{self.name} was ended: {capped[0].text}.",
                self.log_evidence(),
            )

    # Evidence

    def read_log(self) -> int:
        """Read what it has written so far; how many lines that makes.

        What a worker writes before it says something on the wire is in its pipe by then, but the
        grader may have read the wire first.
        """

        async def turns() -> None:
            for _ in range(6):  # the loop looks at every pipe in each of its turns
                await asyncio.sleep(0)

        self.lab.session.loop.run(turns(), self.lab.budgets.work)
        return len(self.lines)

    @property
    def lines(self) -> list[str]:
        """The lines it has logged, on both channels, in the order in which they arrived."""
        return [line.text for line in self.process.lines] if self.process else []

    def log_evidence(self, last: int = 8) -> Evidence:
        """Its last log lines."""
        lines = self.lines
        if not lines:
            return Evidence(f"The log of {self.name}", ("(it has logged nothing)",))
        title = f"The log of {self.name}" + (f", last {last} lines" if len(lines) > last else "")
        return Evidence(title, tuple(_cut(line) for line in lines[-last:]))

    def statement_evidence(self, last: int = 6) -> Evidence:
        """What it said to its store last, as it was seen on the wire."""
        steps = [s for s in self.steps(h.STEP_ARRIVED) if s.kind in SAID]
        lines = []
        for step in steps[-last:]:
            answer = (
                step.error or ", ".join(step.tags) or ("" if step.answered_at else "no answer yet")
            )
            lines.append(step.words + (f"   -> {answer}" if answer else ""))
        return Evidence(
            f"What {self.name} said to {self.store} last", tuple(lines or ["(nothing)"])
        )

    def close(self) -> None:
        """End its process and its proxy, whatever state they are in."""
        if self.process is not None:
            self.process.close()  # also when it has ended: what it started may not have
        if self.wire is not None:
            self.wire.close()


class QueueWorker(Program):
    """A worker, whatever its queue: it connects, and asks again and again for work."""

    place = ""  # what it connects to, in sentences
    asks = ""  # "polls the tasks table"
    going_on = ""  # "polling"
    asked = ""  # "polled"
    a_poll = 0.0  # seconds that each poll may wait at the server

    def poll_times(self, since: int = 0) -> list[float]:
        """When each of its questions for work reached its proxy, by the history's clock."""
        raise NotImplementedError

    def has_asked(self, told: str) -> bool:
        """Whether it has asked for work; `told` is the event that has to have come for it."""
        raise NotImplementedError

    def polls(self, since: int = 0) -> int:
        """How often it has asked for work since event number `since`."""
        return len(self.poll_times(since))

    def expect_ready(self, told: str = h.STEP_DELIVERED) -> None:
        """It connects, and then asks for work: each in its own budget."""
        lab, budgets = self.lab, self.lab.budgets
        connects = lambda _: bool(lab.history.events(h.CONNECTED, who=self.name))  # noqa: E731
        if not self.wait(connects, budgets.boot):
            self.fail_if_ended(f"{self.name} starts and connects to {self.store}.")
            raise lab.finding(
                "never-connected",
                f"{self.name} connects to {self.place}.",
                f"It ran for {budgets.boot:.0f} s without opening a connection.",
                self.log_evidence(),
            )
        if not self.wait(lambda _: self.has_asked(told), budgets.ready):
            self.fail_if_ended(f"{self.name} {self.asks}.")
            raise lab.finding(
                "never-polled",
                f"{self.name} {self.asks} after it has connected.",
                f"It was connected for {budgets.ready:.0f} s and did not.",
                self.statement_evidence(),
                self.log_evidence(),
            )

    def expect_polls(self, count: int, since: int = 0) -> None:
        """It asks for work so many times more (since event number `since`)."""
        budget = self.lab.budgets.work + self.a_poll * count
        if not self.wait(lambda _: self.polls(since) >= count, budget):
            expected = f"{self.name} goes on {self.going_on}."
            self.fail_if_ended(expected)
            raise self.lab.finding(
                "slow-polling",
                expected,
                f"In {budget:.0f} s it {self.asked} {times(self.polls(since))}.",
                self.statement_evidence(),
                self.log_evidence(),
            )


def _cut(line: str, most: int = 300) -> str:
    """A log line, shortened if it is very long; tracebacks and JSON lines fit."""
    return line if len(line) <= most else line[:most] + "…"


def times(count: int) -> str:
    """ "once", "3 times", "0 times"."""
    return "once" if count == 1 else f"{count} times"


def how_it_ended(ended: Exit) -> str:
    """ "ended with status 1", "was ended by SIGTERM"."""
    if ended.signal:
        return f"was ended by {ended.signal}"
    return f"ended with exit status {ended.code}"
