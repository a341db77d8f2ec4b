"""The tasks table as the explorations see it: how it is filled, and what counts as done there."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graders.harness.explore.stage import FINAL, Item, Player, Scenario, Setting, Stage, Timing
from graders.harness.lab import Lab
from graders.harness.results import Evidence
from graders.harness.steps import Step
from graders.harness.wire import Wire
from graders.harness.worker import asks_for_tasks

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

COLUMNS = ("id, title, description, type, status, priority, assigned_worker, created_at, "
           "updated_at")


_numbers = itertools.count(1)


class TasksStage(Stage):
    """A stage whose store is a tasks table in a database of its own."""

    def __init__(self, session: GradingSession, name: str) -> None:
        # A name of its own: its tasks' ids are made from it, and rows move between stages.
        id = f"{name}-{next(_numbers)}"
        session.stages.acquire()
        try:
            self.lab = Lab(session, id)
        except BaseException:
            session.stages.release()
            raise
        self.lab.uses_again = True
        super().__init__(session, id, self.lab.history, self.lab.outside)

    def proxies(self, name: str) -> tuple[list[Wire], dict[str, str]]:
        wire, named = self.lab.proxy(name)
        return [wire], named

    def variables(self, timing: Timing) -> dict[str, str]:
        return {
            "WORKER_POLL_INTERVAL": f"{timing.poll_interval:g}",
            "WORKER_STUCK_AFTER": f"{timing.stuck_after:g}",
        }

    def put(self, scenario: Scenario) -> list[Item]:
        added = []
        for number in range(scenario.tasks):
            task = self.lab.add_task()
            added.append(Item(task.id, task.label, scenario.fails and number == 0))
            if scenario.stuck:
                # Its claim is older than any WORKER_STUCK_AFTER of a trial.
                self.lab.sql(
                    "UPDATE tasks SET status = 'processing', assigned_worker = 'worker-gone', "
                    "updated_at = now() - interval '90 minutes' WHERE id = %s", (task.id,),
                )  # fmt: skip
        self.items += added
        return added

    def add_last(self) -> Item:
        task = self.lab.add_task(age=0)
        item = Item(task.id, task.label)
        self.items.append(item)
        return item

    def state(self, item: Item) -> str | None:
        rows = self.lab.sql("SELECT status FROM tasks WHERE id = %s", (item.id,))
        return rows[0]["status"] if rows else None

    def final_count(self) -> int:
        rows = self.lab.sql(
            "SELECT count(*) AS n FROM tasks WHERE id = ANY(%s) AND status = ANY(%s)",
            ([item.id for item in self.items], list(FINAL)),
        )
        return rows[0]["n"]

    def evidence(self, items: Sequence[Item]) -> Evidence:
        lines = []
        for item in items:
            rows = self.lab.sql("SELECT * FROM tasks WHERE id = %s", (item.id,))
            lines += [
                f"{item.label}  status={row['status']}  assigned_worker={row['assigned_worker']}"
                f"  updated_at={row['updated_at']:%H:%M:%S.%f}" for row in rows
            ] or [f"{item.label}  (the row is gone)"]  # fmt: skip
        return Evidence("The rows as they are now" if len(lines) > 1 else "The row as it is now",
                        tuple(lines))

    def sync(self) -> None:
        self.lab.sync()

    def end_sessions(self, player: Player) -> None:
        self.lab.end_sessions(player.backends)

    def is_poll(self, step: Step) -> bool:
        return asks_for_tasks(step)

    def waits_for(self, waiter: Player, other: Player) -> bool:
        return bool(other.backends & self._blockers(waiter))

    def is_blocked(self, player: Player) -> bool:
        return bool(self._blockers(player))

    def _blockers(self, player: Player) -> set[int]:
        """The backends whose locks it waits for. Asked only while it waits for an answer."""
        waiting = [
            c.backend for wire in player.wires for c in wire.connections
            if c.backend and c.step is not None and c.step.sent_at is not None
            and c.step.answered_at is None
        ]  # fmt: skip
        return {pid for backend in waiting for pid in self.lab.blocked_by(backend)}

    @contextlib.contextmanager
    def lock(self, item: Item) -> Iterator[None]:
        locker = self.lab.connect()
        with locker.transaction(force_rollback=True):
            locker.execute("SELECT 1 FROM tasks WHERE id = %s FOR UPDATE", (item.id,))
            yield

    def has_free_task(self) -> bool:
        looker = self.lab.connect()
        with looker.transaction(force_rollback=True):
            return looker.execute(
                "SELECT 1 FROM tasks WHERE status = 'pending' LIMIT 1 FOR UPDATE SKIP LOCKED"
            ).fetchone() is not None

    def left(self) -> list[dict[str, Any]]:
        return self.lab.sql(f"SELECT {COLUMNS} FROM tasks ORDER BY created_at")

    def give(self, left: list[dict[str, Any]], items: Sequence[Item]) -> None:
        values = ", ".join(f"%({name.strip()})s" for name in COLUMNS.split(","))
        for row in left:
            self.lab.adopt(str(row["id"]), next(i.label for i in items if i.id == str(row["id"])))
            self.lab.sql(f"INSERT INTO tasks ({COLUMNS}) VALUES ({values})", row)
        self.items += items

    def free(self) -> None:
        try:
            self.lab.close()
        finally:
            self.session.stages.release()


SETTING = Setting("tasks", TasksStage)
