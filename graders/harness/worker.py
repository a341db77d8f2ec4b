"""One student worker in a check: its process, its proxy, and what is expected of them."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graders.harness import history as h
from graders.harness.process import Exit, Process
from graders.harness.results import Evidence
from graders.harness.wire import Hold, Step
from graders.harness.wire_postgres import PostgresWire
from graders.harness.world import Call

if TYPE_CHECKING:
    from graders.harness.lab import Lab

CAP_FINDINGS = {
    "output": "output-flood",
    "memory": "memory-exhausted",
    "processes": "too-many-processes",
    "disk": "disk-filled",
    "files": "disk-filled",
}
_TASKS = re.compile(r"\btasks\b", re.IGNORECASE)
_LITERAL = re.compile(r"""'(?:[^']|'')*'|"[^"]*\d[^"]*"|\b\d+(?:\.\d+)?\b""")


def asks_for_tasks(step: Step) -> bool:
    """Whether a step reads or writes the tasks table."""
    return step.kind == "query" and bool(_TASKS.search(step.words))


class Worker:
    """A worker that a check has started."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.wire: PostgresWire | None = None
        self.process: Process | None = None
        self._hold: Hold | None = None  # where its steps are held, if the check asked for that
        self._holds: Callable[[Step], bool] = lambda _: False
        self._stopping = False  # a signal was sent: its exit is no surprise
        self._begun = len(lab.history)

    def start(
        self,
        poll_interval: float,
        stuck_after: float,
        hold: Callable[[Step], bool] | None,
        env: dict[str, str | None],
        hold_before: Callable[[Step], bool] | None = None,
    ) -> None:
        """Start it, with DATABASE_URL naming its own proxy. Does not wait for anything."""
        lab, session = self.lab, self.lab.session
        server = session.services.postgres
        self.wire = PostgresWire(session.loop, lab.history, self.name, (server.host, server.port))
        if hold is not None:
            self._hold, self._holds = self.wire.hold(hold, when="after", times=None), hold
        elif hold_before is not None:
            self._hold = self.wire.hold(hold_before, when="before", times=None)
        port = self.wire.start()
        variables: dict[str, str | None] = {
            "DATABASE_URL": lab.database.worker_url("127.0.0.1", port),
            "WORKER_ID": self.name,
            "WORKER_POLL_INTERVAL": f"{poll_interval:g}",
            "WORKER_STUCK_AFTER": f"{stuck_after:g}",
            "WORK_URL": lab.world.url(self.name),
            **env,
        }
        environment = session.environment()
        for key, value in variables.items():
            if value is None:
                environment.pop(key, None)
            else:
                environment[key] = value
        self.process = session.spawn(
            "worker", f"{lab.check_name}.{self.name}", self.name, environment, lab.history
        )

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

    def polls(self, since: int = 0) -> int:
        """How often it has asked the tasks table the same thing since event number `since`.

        One poll may be several statements, each of which comes once per poll; so the statement
        that came most often counts the polls. Values written into the text do not count.
        """
        return len(self.poll_times(since))

    def poll_times(self, since: int = 0) -> list[float]:
        """When each of these polls reached its proxy, in seconds of the history's clock.

        A poll is let through only after its time was taken, and the worker can wait only after it
        has had the answer. So two of these are never closer to each other than the worker's wait,
        however slow the grader is.
        """
        asked: dict[str, list[float]] = {}
        for step in self.steps(since=since):
            if asks_for_tasks(step):
                asked.setdefault(_LITERAL.sub("?", step.words), []).append(step.arrived_at)
        return max(asked.values(), key=len, default=[])

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

    def expect_ready(self, told: str = h.STEP_DELIVERED) -> None:
        """It connects, and then polls (and has its answer): each in its own budget."""
        lab, budgets = self.lab, self.lab.budgets
        connects = lambda _: bool(lab.history.events(h.CONNECTED, who=self.name))  # noqa: E731
        if not self.wait(connects, budgets.boot):
            self.fail_if_ended(f"{self.name} starts and connects to PostgreSQL.")
            raise lab.finding(
                "never-connected",
                f"{self.name} connects to the database that DATABASE_URL names.",
                f"It ran for {budgets.boot:.0f} s without opening a connection.",
                self.log_evidence(),
            )
        polled = lambda _: any(asks_for_tasks(s) for s in self.steps(told))  # noqa: E731
        if not self.wait(polled, budgets.ready):
            self.fail_if_ended(f"{self.name} polls the tasks table.")
            raise lab.finding(
                "never-polled",
                f"{self.name} polls the tasks table after it has connected.",
                f"It was connected for {budgets.ready:.0f} s and did not ask the tasks table for "
                "anything.",
                self.statement_evidence(),
                self.log_evidence(),
            )

    def wait_connected(self) -> None:
        """Wait until it has opened a connection; not doing so is not judged here."""
        connects = lambda _: bool(self.lab.history.events(h.CONNECTED, who=self.name))  # noqa: E731
        self.wait(connects, self.lab.budgets.boot)

    def expect_polls(self, count: int, since: int = 0) -> None:
        """It polls so many times more (since event number `since`)."""
        if not self.wait(lambda _: self.polls(since) >= count, self.lab.budgets.work):
            expected = f"{self.name} goes on polling."
            self.fail_if_ended(expected)
            raise self.lab.finding(
                "slow-polling",
                expected,
                f"In {self.lab.budgets.work:.0f} s it polled {times(self.polls(since))}.",
                self.statement_evidence(),
                self.log_evidence(),
            )

    def expect_gone_on(self) -> None:
        """It has finished what it was at: from now on it polls twice more, or it has ended.

        After this, work that it had begun before has been seen. For workers with a short interval.
        """
        since = len(self.lab.history)
        self.wait(lambda _: self.polls(since) >= 2, self.lab.budgets.work)

    def expect_quiet(self) -> None:
        """Its first poll has ended: nothing that it has said still waits for an answer."""
        self.wire.settle(self.lab.budgets.work)
        self.fail_if_ended(f"{self.name} lives on while it has nothing to do.")

    def connections_opened(self) -> set[int]:
        """The numbers of its connections that are open now."""
        used = {step.connection for step in self.steps() if step.kind == "query"}
        return used & {connection.number for connection in self.wire.connections}

    def expect_closed(self, opened: set[int]) -> None:
        """Each of these connections was closed by the worker, with PostgreSQL's Terminate."""
        lab = self.lab

        def gone(_: Any) -> bool:
            ended = lab.history.events(h.DISCONNECTED, who=self.name)
            return opened <= {e.data["connection"] for e in ended}

        lab.history.wait_until(gone, lab.budgets.work)
        closed = {s.connection for s in self.steps(h.STEP_ARRIVED) if s.kind == "close"}
        if not opened <= closed:
            raise lab.finding(
                "connection-not-closed",
                f"{self.name} closes its connection before it ends (PostgreSQL's Terminate).",
                f"{len(opened - closed)} of its open connections ({len(opened)}) broke off "
                "without it.",
                self.statement_evidence(),
                self.log_evidence(),
            )

    def restart_database(self) -> None:
        """Cut its connections as a restart of PostgreSQL does; it can connect again at once."""
        self.lab.tell(f"Cut the connections of {self.name}, as a restart of PostgreSQL does.")
        self.wire.cut()

    @property
    def held_step(self) -> Step | None:
        """The step that is held now, after the server's word; None if there is none."""
        for step in self.steps(h.STEP_ANSWERED):
            if self._holds(step) and step.delivered_at is None and step.fate is None:
                return step
        return None

    def expect_held(self) -> None:
        """It connects and says what is held before the server hears it."""
        self.expect_ready(h.STEP_ARRIVED)

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

    def terminate(self) -> None:
        """Send SIGTERM to it, as `docker stop` and every deploy do; return once it was taken."""
        self._signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT to its process group, as Ctrl-C does; return once it was taken."""
        self._signal(signal.SIGINT)

    def _signal(self, signum: signal.Signals) -> None:
        self._stopping = True
        self.lab.tell(f"Sent {signum.name} to {self.name}.")
        if signum == signal.SIGINT:
            self.process.interrupt()
        else:
            self.process.signal(signum)
        self.process.wait_signal_taken(self.lab.budgets.shutdown)

    def kill(self) -> None:
        """Kill it (SIGKILL, the whole tree), and end what PostgreSQL still does for it.

        The server does not notice a dead client: a statement that waits for a lock could still
        commit later. So the connections are cut, and the backends waited for.
        """
        self._stopping = True
        backends = list(self.backends)
        self.process.kill()
        self.wire.cut()
        self.lab.end_backends(backends)
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

    def expect_not_dropped(self, task: Any) -> None:
        """The task that was in hand at the signal has been completed, now that the worker ended."""
        lab = self.lab
        row = lab.row(task)
        if row is None or row["status"] != "completed":
            raise lab.finding(
                "task-dropped-on-stop",
                f"{self.name} finishes {task}, which it has in hand, and records it, then ends.",
                f"It {how_it_ended(self.process.exit)}, and {task} is "
                f"“{row['status'] if row else 'gone'}”.",
                lab.row_evidence(task),
                self.log_evidence(),
            )

    def fail_if_ended(self, expected: str, although_stopping: bool = False) -> None:
        """Raise the finding that says how it ended, if it has ended and nothing told it to."""
        self.fail_if_capped(expected)
        if self.alive or self.process is None or (self._stopping and not although_stopping):
            return
        code = "task-dropped-on-stop" if self._stopping else "worker-exited"
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
        """Its last statements, as they were seen on the wire."""
        steps = [s for s in self.steps(h.STEP_ARRIVED) if s.kind in ("query", "connect", "close")]
        lines = []
        for step in steps[-last:]:
            answer = (
                step.error or ", ".join(step.tags) or ("" if step.answered_at else "no answer yet")
            )
            lines.append(step.words + (f"   -> {answer}" if answer else ""))
        return Evidence(f"What {self.name} said to PostgreSQL last", tuple(lines or ["(nothing)"]))

    def close(self) -> None:
        """End its process and its proxy, whatever state they are in."""
        if self.process is not None:
            self.process.close()  # also when it has ended: what it started may not have
        if self.wire is not None:
            self.wire.close()


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
