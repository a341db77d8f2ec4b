"""What a check holds in its hands: tasks, workers, the outside world, and the history.

Whatever a check does through these is told as a numbered step, whatever it expects and does not
find becomes a Finding, with the evidence.
"""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier

from graders.harness import history as h
from graders.harness.check import CouldNotGrade, Finding
from graders.harness.database import watch
from graders.harness.results import Coverage, Evidence
from graders.harness.wire import Step
from graders.harness.worker import Worker
from graders.harness.world import Call, World

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

TITLES = (
    "write the weekly report", "resize the photos", "send the invoices", "check the backups",
    "index the archive", "render the map", "count the votes", "translate the letter",
    "sort the mail", "test the alarm", "water the plants", "print the labels",
)  # fmt: skip
HOUR = 3600.0
FINAL = ("completed", "failed")
ROW_NEWS = (h.ROW_CHANGED, h.CALL_ARRIVED, h.EXIT)  # after these a row is looked at again


@dataclass(frozen=True)
class Task:
    """A task that a check has added. `label` is what findings call it: T1, T2 …"""

    id: str
    label: str
    title: str
    type: str

    def __str__(self) -> str:
        return self.label


class Lab:
    """One check's own database, world, workers and history."""

    def __init__(self, session: GradingSession, check_name: str) -> None:
        self.session = session
        self.check_name = check_name
        self.budgets = session.budgets
        self.history = h.History()
        self.steps: list[str] = []
        self.coverage: Coverage | None = None  # of an exploration
        self.uses_again = False  # whether its database is to serve another one after it
        self.shown: tuple[h.Event, ...] | None = None  # of the moment that broke in one
        self.workers: list[Worker] = []
        self._random = random.Random(f"{session.options.seed} {check_name}")
        self._labels = itertools.count(1)
        self._tasks: dict[str, Task] = {}
        self._born = datetime.now(UTC) - timedelta(hours=2)
        self._admin: psycopg.Connection | None = None
        self._admin_lock = threading.Lock()
        self._closing: list[Callable[[], Any]] = []
        try:
            self.database = session.databases.new()
            self._watch = watch(self.database, session.loop, self.history)
            self._closing.append(self._watch.close)
            self._world = World(session.loop, self.history)
            self._world.start()
            self._closing.append(self._world.stop)
            self.world = OutsideWorld(self, self._world)
        except BaseException:
            self.close()
            raise

    @property
    def outside(self) -> World:
        """The world itself, for what needs more than a check does."""
        return self._world

    # Telling what happened

    def tell(self, text: str) -> None:
        """Add a numbered step: a sentence in the past tense about what the check has done."""
        self.steps.append(text)

    def events_to_show(self) -> list[h.Event]:
        """The events of which the timeline of a failure is made."""
        return self.history.events() if self.shown is None else list(self.shown)

    # Tasks

    def add_task(
        self, title: str | None = None, *, type: str = "generic", age: float | None = None
    ) -> Task:
        """Add a pending task. Each is younger than the one before unless `age` (seconds) is given.

        The clock of created_at starts two hours ago, so a rule that measures a task's age by it
        shows itself.
        """
        number = next(self._labels)
        task = Task(
            id=str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            label=f"T{number}",
            title=title or TITLES[(number - 1) % len(TITLES)],
            type=type,
        )
        self._tasks[task.id] = task
        created = self._born + timedelta(seconds=number)
        if age is not None:
            created = datetime.now(UTC) - timedelta(seconds=age)
        self.history.add(
            h.TASK_ADDED, "grader", f"adds {task.label} “{task.title}”", task=task.id,
            label=task.label,
        )  # fmt: skip
        self.sql(
            "INSERT INTO tasks (id, title, description, type, created_at, updated_at)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (task.id, task.title, f"{task.label} of this check", type, created, created),
        )
        kind = "" if type == "generic" else f" of type {type}"
        self.tell(f"Added the pending task {task.label}{kind}: “{task.title}”.")
        return task

    def adopt(self, task_id: str, label: str) -> None:
        """Know a task that another lab has made, by the name it had there."""
        self.history.add(h.TASK_ADDED, "grader", f"gives {label}", task=task_id, label=label)

    def sync(self) -> None:
        """Return once every change committed so far is in the history."""
        self._watch.sync(self.budgets.work)

    def end_backends(self, backends: Iterable[int]) -> None:
        """Terminate these sessions of PostgreSQL and wait until they are gone (at most 5 s)."""
        self.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = ANY(%s)",
            (list(backends),),
        )

    def label(self, task_id: str | None) -> str:
        """What a task is called in findings."""
        task = self._tasks.get(str(task_id))
        return task.label if task else f"task {task_id}"

    def row(self, task: Task) -> dict[str, Any] | None:
        """The task's row as it is committed now; None if it is gone."""
        rows = self.sql("SELECT * FROM tasks WHERE id = %s", (task.id,))
        return rows[0] if rows else None

    def row_evidence(self, *tasks: Task) -> Evidence:
        """The rows of these tasks as they are now."""
        lines = []
        for task in tasks:
            row = self.row(task)
            lines.append(
                f"{task.label}  (the row is gone)" if row is None else
                f"{task.label}  status={row['status']}  assigned_worker={row['assigned_worker']}"
                f"  updated_at={row['updated_at']:%H:%M:%S.%f}"
            )  # fmt: skip
        return Evidence("The rows as they are now" if len(tasks) > 1 else "The row as it is now",
                        tuple(lines))  # fmt: skip

    def order_evidence(self, due: Iterable[Task]) -> Evidence:
        """When each of these tasks was created, oldest first."""
        lines = (f"{t.label}  created_at={self.row(t)['created_at']:%H:%M:%S}" for t in due)
        return Evidence("The tasks, oldest first", tuple(lines))

    def ever_claimed(self, task: Task) -> bool:
        """Whether the task has ever left the status pending, as far as it was committed."""
        self._watch.sync(self.budgets.work)
        changes = self.history.events(h.ROW_CHANGED)
        return any(
            str(e.data["task"]) == task.id and e.data["new"] not in (None, "pending")
            for e in changes
        )

    def expect_status(self, task: Task, status: str) -> None:
        """The task's row gets this status, within the work budget.

        Completed and failed are final: a task that gets the wrong one of them is not waited for.
        """
        self.wait_for_row(
            task, lambda row: row["status"] in (status, *FINAL) or self.caller_again(task)
        )
        row = self.row(task)
        found = row["status"] if row else "gone"
        if found == status:
            return
        expected = f"{task.label} gets the status “{status}”."
        if found not in FINAL:
            for worker in self.workers:
                worker.fail_if_ended(expected)
            if again := self.caller_again(task):
                raise self.finding(
                    "task-executed-twice",
                    f"{task.label} is executed once, and gets the status “{status}”.",
                    f"{again} has called the outside world for it twice.",
                    self.row_evidence(task),
                    *(worker.statement_evidence() for worker in self.workers),
                    *(worker.log_evidence() for worker in self.workers),
                )
        code = {
            "pending": "task-left-pending",
            "processing": "task-left-in-processing",
            "failed": "task-wrongly-failed",
            "completed": "task-wrongly-completed",
        }.get(found, "task-left-pending")
        raise self.finding(
            code,
            expected,
            f"It got the status “{found}”." if found in FINAL
            else f"{self.budgets.work:.0f} s later it is “{found}”.",
            self.row_evidence(task),
            *(worker.log_evidence() for worker in self.workers),
        )  # fmt: skip

    def final_status(self, task: Task) -> str | None:
        """Completed or failed, if the task has got that status already; else None."""
        row = self.row(task)
        return row["status"] if row and row["status"] in FINAL else None

    def caller_again(self, task: Task) -> str | None:
        """The name of a worker that has executed the task more than once; None if none has."""
        callers = [call.process for call in self.world.calls_of(task)]
        return next((who for who in callers if callers.count(who) > 1), None)

    def wait_for_row(self, task: Task, wanted: Callable[[dict], bool]) -> dict | None:
        """Wait, within the work budget, until the task's row is as wanted; returns it, or None."""

        def asked(_: Iterable[h.Event]) -> dict | None:
            row = self.row(task)
            return row if row is not None and wanted(row) else None

        since = 0
        left = self.budgets.work
        while True:
            since, began = len(self.history), self.history.now()
            if row := asked(()):
                return row
            if left <= 0 or self.session.stopping:
                return None
            if all(not worker.alive for worker in self.workers):
                self._watch.sync(self.budgets.work)
                return asked(())
            turn = min(left, 2.0)
            self.history.wait(lambda e: e.kind in ROW_NEWS, turn, since)
            left -= min(self.history.now() - began, turn)  # as History.wait_until counts

    # Workers

    def start_worker(
        self,
        *,
        poll_interval: float = 0.1,
        stuck_after: float = HOUR,
        ready: bool = True,
        hold: Callable[[Step], bool] | None = None,
        hold_before: Callable[[Step], bool] | None = None,
        env: dict[str, str | None] | None = None,
        told: str = "",
    ) -> Worker:
        """Start the student's worker behind a proxy of its own; wait until it has polled once.

        `hold` says which of its steps are held once they are answered (see Worker.held_step),
        `hold_before` which are held before the server hears them. `env` changes its environment;
        None removes a variable. `told` is added to the step that tells of it.
        """
        name = f"worker-{len(self.workers) + 1}"
        worker = Worker(self, name)
        self.workers.append(worker)
        worker.start(poll_interval, stuck_after, hold, env or {}, hold_before)
        number = len(self.steps)
        told = f"; {told}" if told else ""
        self.tell(f"Started {name}{told}.")
        if ready:
            worker.expect_ready()
            self.steps[number] = f"Started {name}{told}; it connected and polled."
        return worker

    # Findings

    def finding(
        self,
        code: str,
        expected: str,
        seen: str,
        *evidence: Evidence | None,
        at: h.Event | None = None,
    ) -> Finding:
        """A finding, told in the history too: the timeline points at `at`, or at this moment."""
        self.history.add(h.NOTE, "grader", f"this broke: {code}", code=code, broke=True, event=at)
        return Finding(code, expected, seen, [e for e in evidence if e is not None and e.lines])

    # The grader's own connection

    def sql(self, query: str | Composed, params: Any = None) -> list[dict[str, Any]]:
        """Run a statement as the database's owner, and commit; rows as dictionaries."""
        with self._admin_lock:
            try:
                if self._admin is None:
                    self._admin = self.connect()
                cursor = self._admin.execute(query, params)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                raise CouldNotGrade(
                    f"The grader's own connection to PostgreSQL failed: {error}".strip()
                ) from error

    def use_no_index(self) -> None:
        """Make PostgreSQL read tables from their first page on, for connections from now on.

        By an index, rows may come in the order of a column that nobody has asked for.
        """
        for setting in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
            self.sql(
                SQL("ALTER DATABASE {} SET {} = off").format(
                    Identifier(self.database.name), Identifier(setting)
                )
            )

    def connect(self, **options: Any) -> psycopg.Connection:
        """A connection of the grader's own, in autocommit; closed with the lab."""
        connection = psycopg.connect(
            self.database.admin_url, autocommit=True, row_factory=dict_row, **options
        )
        self._closing.append(connection.close)
        return connection

    def blocked_by(self, backend: int) -> list[int]:
        """Backends whose locks this backend waits for (pg_blocking_pids)."""
        return self.sql("SELECT pg_blocking_pids(%s) AS pids", (backend,))[0]["pids"]

    def close(self) -> None:
        """End every process, connection and listener of this check."""
        for worker in self.workers:
            worker.close()
        if self.uses_again and self._admin is not None and not self._admin.closed:
            self.database.use_again(self._admin)
        for close in reversed(self._closing):
            try:
                close()
            except Exception as error:  # the next one is to be closed all the same
                self.history.add(h.NOTE, "grader", f"closing failed: {error}")
        self._closing.clear()
        self.history.close()


class OutsideWorld:
    """The world outside, as a check sees it: calls come in, and are held until it lets them go."""

    def __init__(self, lab: Lab, world: World) -> None:
        self._lab = lab
        self._world = world

    def url(self, process: str) -> str:
        """The WORK_URL of one process."""
        return self._world.url(process)

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in the order in which they came."""
        return list(self._world.calls)

    def calls_of(self, task: Task) -> list[Call]:
        """The executions of one task."""
        return [call for call in self._world.calls if call.task_id == task.id]

    def arrival(self, call: Call) -> h.Event | None:
        """The event at which a call came in."""
        came = self._lab.history.events(h.CALL_ARRIVED)
        return next((event for event in came if event.data["call"] is call), None)

    def answer_all(self, policy: Any = "finish") -> None:
        """From now on answer every call at once: "finish", "fail", or a function of the call."""
        self._world.policy = policy
        self._world.release_all()
        if policy == "finish":
            self._lab.tell("From here on the outside world finishes every call at once.")

    def next_call(self, task: Task | None = None, worker: Worker | None = None) -> HeldCall:
        """The next call (for this task, by this worker), which is held until it is answered."""
        call = self.wait_call(task, worker, self._lab.budgets.work)
        if call is not None:
            return call
        lab = self._lab
        what = f"the work of {task}" if task else "the work of a task"
        who = worker.name if worker else "the worker"
        expected = f"{who[:1].upper()}{who[1:]} does {what} (calls the outside world)."
        workers = [worker] if worker else lab.workers
        status = lab.final_status(task) if task else None
        if status is None:
            for each in workers:
                each.fail_if_ended(expected)
        raise lab.finding(
            "task-wrongly-completed" if status == "completed" else "task-never-executed",
            expected,
            f"No such call came, and {task} is marked “{status}” all the same." if status
            else f"No such call came in {lab.budgets.work:.0f} s.",
            self.refused_evidence(),
            lab.row_evidence(task) if task else None,
            *(w.statement_evidence() for w in workers),
            *(w.log_evidence() for w in workers),
        )  # fmt: skip

    def refused_evidence(self) -> Evidence:
        """Requests that were no call, and why."""
        notes = [e for e in self._lab.history.events(h.NOTE) if e.data.get("malformed")]
        return Evidence("Requests that were no call", tuple(f"{e.who} {e.text}" for e in notes[:5]))

    def wait_call(
        self, task: Task | None, worker: Worker | None, timeout: float
    ) -> HeldCall | None:
        """As next_call, but None when none came, or when none can come any more.

        That is so when everybody who could call has ended, or has got the task's row to its final
        status and polled twice since.
        """
        callers = [worker] if worker else self._lab.workers
        task_id = task.id if task else None
        process = worker.name if worker else None

        def came(_: Iterable[h.Event]) -> Any:
            call = self._world.next_call(task_id, process, timeout=0)
            return call or (callers and not any(could_call(each) for each in callers))

        def could_call(each: Worker) -> bool:
            if not each.alive or task is None:
                return each.alive
            ended = next(
                (e.n for e in self._lab.history.events(h.ROW_CHANGED)
                 if str(e.data["task"]) == task.id and e.data["new"] in FINAL), None,
            )  # fmt: skip
            return ended is None or each.polls(since=ended) < 2

        found = self._lab.history.wait_until(came, timeout)
        if not isinstance(found, Call):
            return None
        self._lab.tell(
            f"{found.process} called the outside world for {self._lab.label(found.task_id)};"
            " the call was held."
        )
        return HeldCall(self._lab, found)


class HeldCall:
    """A worker's call of the outside world, held until the check answers it."""

    def __init__(self, lab: Lab, call: Call) -> None:
        self._lab = lab
        self._call = call
        self.task_id = call.task_id
        self.process = call.process
        self.label = lab.label(call.task_id)

    def finish(self) -> None:
        """Answer it: the work is done."""
        self._lab.tell(f"Let the call of {self.label} finish.")
        self._call.finish()

    def fail(self) -> None:
        """Answer it with status 500: the work has failed."""
        self._lab.tell(f"Answered the call of {self.label} with status 500: its work has failed.")
        self._call.fail()
