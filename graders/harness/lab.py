"""What a check of the tasks table holds in its hands: tasks, rows, and the workers on them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier

from graders.harness import history as h
from graders.harness.check import CouldNotGrade, Finding
from graders.harness.database import Database, watch
from graders.harness.migration import Migration
from graders.harness.program import Program
from graders.harness.results import Evidence
from graders.harness.room import FINAL, HOUR, Room
from graders.harness.steps import Step
from graders.harness.wire_postgres import PostgresWire
from graders.harness.worker import Worker

TITLES = (
    "write the weekly report", "resize the photos", "send the invoices", "check the backups",
    "index the archive", "render the map", "count the votes", "translate the letter",
    "sort the mail", "test the alarm", "water the plants", "print the labels",
)  # fmt: skip
# Locks of a table that keep others from changing or reading it.
WHOLE_TABLE = ["ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]
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


class Lab(Room):
    """One check's own tasks table in PostgreSQL, world, processes and history."""

    def open(self) -> None:
        self._born = datetime.now(UTC) - timedelta(hours=2)
        self._admin: psycopg.Connection | None = None
        self._admin_lock = threading.Lock()
        self.database = self.session.databases.new()
        self._watch = watch(self.database, self.session.loop, self.history)
        self._closing.append(self._watch.close)

    def proxy(
        self, name: str, database: Database | None = None
    ) -> tuple[PostgresWire, dict[str, str]]:
        server = self.session.services.postgres
        wire = PostgresWire(
            self.session.loop, self.history, name, (server.host, server.port)
        )
        port = wire.start()
        url = (database or self.database).worker_url("127.0.0.1", port)
        return wire, {"DATABASE_URL": url}

    # Migrations

    def empty_database(self) -> Database:
        """One more database, with nothing in it, which the student's role owns."""
        database = self.session.empty_database()
        self._closing.append(database.drop)
        return database

    def migrate(
        self,
        direction: str,
        database: Database,
        *,
        wait: bool = True,
        hold: Callable[[Step], bool] | None = None,
        env: dict[str, str | None] | None = None,
        folder: Path | None = None,
        prepare: Callable[[Program], None] | None = None,
        told: str = "",
    ) -> Migration:
        """Run the submission's migrations, "up" or "down"; waits until they end with status 0.

        Without `wait` it only starts them. `folder` is where they are run (see
        GradingSession.private_copy), `prepare` is called when the proxy is there and they are not,
        `told` is added to the step that tells of it.
        """
        number = 1 + sum(isinstance(each, Migration) for each in self.programs)
        migration = Migration(self, f"migrate-{number}", direction, database)
        self.programs.append(migration)
        migration.start(hold=hold, env=env or {}, folder=folder, prepare=prepare)
        self.tell(f"Ran migrate {direction} ({migration.name}){f'; {told}' if told else ''}.")
        if wait:
            migration.expect_success()
        return migration

    def catalogue(
        self, database: Database, query: str, params: Any = None
    ) -> list[dict[str, Any]]:
        """Ask a database as the server's administrator; rows as dictionaries."""
        return self.catalogues(database, {"": query}, params)[""]

    def catalogues(
        self, database: Database, queries: Mapping[str, str], params: Any = None
    ) -> dict[str, list[dict[str, Any]]]:
        """The same for several queries, over one connection; the rows by the queries' names."""
        with psycopg.connect(
            database.admin_url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursors = {name: connection.execute(query, params) for name, query in queries.items()}
            return {name: cursor.fetchall() if cursor.description else []
                    for name, cursor in cursors.items()}

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
        self._known[task.id] = task
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

    def know_task(self, task_id: str, title: str) -> Task:
        """Know a task that an API has stored, by a label of its own."""
        task = Task(task_id, f"T{next(self._labels)}", title, "generic")
        self._known[task.id] = task
        self.history.add(
            h.TASK_ADDED, "grader", f"calls it {task.label}", task=task.id, label=task.label
        )
        return task

    def sync(self) -> None:
        """Return once every change committed so far is in the history."""
        self._watch.sync(self.budgets.work)

    def end_sessions(self, backends: Iterable[int]) -> None:
        """Terminate these sessions of PostgreSQL and wait until they are gone (at most 5 s)."""
        self.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = ANY(%s)",
            (list(backends),),
        )

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

    def evidence(self, *works: Task) -> Evidence:
        return self.row_evidence(*works)

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

    def ended_at(self, task_id: str) -> int | None:
        return next(
            (e.n for e in self.history.events(h.ROW_CHANGED)
             if str(e.data["task"]) == task_id and e.data["new"] in FINAL), None,
        )  # fmt: skip

    def wait_for_row(self, task: Task, wanted: Callable[[dict], bool]) -> dict | None:
        """Wait, within the work budget, until the task's row is as wanted; returns it, or None."""

        def asked() -> dict | None:
            row = self.row(task)
            return row if row is not None and wanted(row) else None

        return self.look_until_found(asked, ROW_NEWS)

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
        worker = Worker(self, f"worker-{len(self.workers) + 1}")
        self.workers.append(worker)
        self.programs.append(worker)
        worker.start(poll_interval, stuck_after, hold, env or {}, hold_before)
        self.tell_start(worker, told, ready, "it connected and polled")
        return worker

    # The grader's own connection

    def sql(self, query: str | Composed, params: Any = None) -> list[dict[str, Any]]:
        """Run a statement as the database's owner, and commit; rows as dictionaries."""
        with self._admin_lock:
            try:
                if self._admin is None:
                    self._admin = self.connect()
                cursor = self._admin.execute(query, params)
                return cursor.fetchall() if cursor.description else []
            except psycopg.errors.LockNotAvailable:
                raise self._kept_out() from None
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
        # Who holds a lock for as long as its work goes on would hold the grader as long, too.
        connection.execute(f"SET lock_timeout = {1000 * self.budgets.work:.0f}")
        return connection

    def _kept_out(self) -> Finding:
        """The finding that a worker's lock kept the grader waiting. The caller may use `_admin`."""
        holders = self._admin.execute(
            "SELECT pid FROM pg_locks WHERE granted AND relation = to_regclass('tasks') "
            "AND mode = ANY(%s)", (WHOLE_TABLE,)
        ).fetchall()
        pids = {row["pid"] for row in holders}
        who = [worker for worker in self.workers if worker.backends & pids]
        whose = f"{who[0].name} held a lock of the whole table" if who else "A lock was held"
        return self.finding(
            "table-locked",
            "While a task is worked on, others can read and change the table.",
            f"{whose}, and the grader waited for it in vain, for {self.budgets.work:.0f} s.",
            *(worker.statement_evidence() for worker in who),
        )

    def blocked_by(self, backend: int) -> list[int]:
        """Backends whose locks this backend waits for (pg_blocking_pids)."""
        return self.sql("SELECT pg_blocking_pids(%s) AS pids", (backend,))[0]["pids"]

    def is_blocked(self, backend: int | None) -> bool:
        return backend is not None and bool(self.blocked_by(backend))

    def before_close(self) -> None:
        if self.uses_again and self._admin is not None and not self._admin.closed:
            self.database.use_again(self._admin)
