"""A worker on the tasks table in a check: how it polls, and what is expected of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graders.harness import history as h
from graders.harness.program import QueueWorker, how_it_ended, times
from graders.harness.steps import Step

if TYPE_CHECKING:
    from graders.harness.lab import Lab

__all__ = ["Worker", "asks_for_tasks", "how_it_ended", "times"]

_TASKS = re.compile(r"\btasks\b", re.IGNORECASE)
_LITERAL = re.compile(r"""'(?:[^']|'')*'|"[^"]*\d[^"]*"|\b\d+(?:\.\d+)?\b""")


def asks_for_tasks(step: Step) -> bool:
    """Whether a step reads or writes the tasks table."""
    return step.kind == "query" and bool(_TASKS.search(step.words))


class Worker(QueueWorker):
    """A worker on the tasks table that a check has started."""

    lab: Lab
    place = "the database that DATABASE_URL names"
    asks = "polls the tasks table"
    going_on = "polling"
    asked = "polled"

    def start(
        self,
        poll_interval: float,
        stuck_after: float,
        hold: Callable[[Step], bool] | None,
        env: dict[str, str | None],
        hold_before: Callable[[Step], bool] | None = None,
    ) -> None:
        """Start it, with DATABASE_URL naming its own proxy. Does not wait for anything."""
        variables = {
            "WORKER_ID": self.name,
            "WORKER_POLL_INTERVAL": f"{poll_interval:g}",
            "WORKER_STUCK_AFTER": f"{stuck_after:g}",
            "WORK_URL": self.lab.world.url(self.name),
            **env,
        }
        self.run(variables, hold=hold, hold_before=hold_before)

    # What it is

    def poll_times(self, since: int = 0) -> list[float]:
        """When each of its polls reached its proxy, in seconds of the history's clock.

        One poll may be several statements, each of which comes once per poll; so the statement
        that came most often counts the polls. Values written into the text do not count.

        A poll is let through only after its time was taken, and the worker can wait only after it
        has had the answer. So two of these are never closer to each other than the worker's wait,
        however slow the grader is.
        """
        asked: dict[str, list[float]] = {}
        for step in self.steps(since=since):
            if asks_for_tasks(step):
                asked.setdefault(_LITERAL.sub("?", step.words), []).append(step.arrived_at)
        return max(asked.values(), key=len, default=[])

    def has_asked(self, told: str) -> bool:
        return any(asks_for_tasks(step) for step in self.steps(told))

    # Waiting

    def wait_connected(self) -> None:
        """Wait until it has opened a connection; not doing so is not judged here."""
        connects = lambda _: bool(self.lab.history.events(h.CONNECTED, who=self.name))  # noqa: E731
        self.wait(connects, self.lab.budgets.boot)

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

    def expect_held(self) -> None:
        """It connects and says what is held before the server hears it."""
        self.expect_ready(h.STEP_ARRIVED)

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
