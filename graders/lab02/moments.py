"""A request that stores a task, and a run of the migrations, as the explorations see them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from graders.harness.explore.acts import (
    CRASH,
    DISCONNECT,
    SHUTDOWN,
    Act,
    Acted,
    Post,
    stopped_well,
)
from graders.harness.lab import Lab
from graders.harness.results import Evidence
from graders.lab02 import schema

TITLE = "resize the photos"


class PostTask(Post):
    """A client posts a task."""

    data = MappingProxyType({"title": TITLE, "priority": 3})

    def wrongly_stored(self, room: Lab) -> tuple[str, str] | None:
        count = len(self._rows(room))
        code = "stored-twice" if count > 1 else "half-written"
        return None if count == 1 else (code, self._said(room))

    def judge(self, kind: str, room: Lab, acted: Acted) -> tuple[str, str] | None:
        rows = self._rows(room)
        answer = acted.request.answer
        if len(rows) > 1:
            return "stored-twice", self._said(room)
        if rows and not self._whole(rows[0]):
            return "half-written", "the row of the task is there, and not as it was posted"
        if kind == CRASH:
            return self._told_true(room, acted)
        if kind == SHUTDOWN:
            if answer is None or answer.status != 201:
                told = (f"was answered {answer.shown}" if answer
                        else f"was not answered ({acted.request.problem})")
                return "request-dropped", f"the request, which was in flight, {told}"
            return self._told_true(room, acted) or stopped_well(acted)
        return self._told_true(room, acted) or self._well_again(room, acted)

    def _told_true(self, room: Lab, acted: Acted) -> tuple[str, str] | None:
        """What was answered is true."""
        answer = acted.request.answer
        if answer is not None and answer.status == 201 and not self._rows(room):
            return "half-written", "it was answered 201, and there is no row of the task"
        return None

    def _well_again(self, room: Lab, acted: Acted) -> tuple[str, str] | None:
        """The request that was cut off is answered, and the API works on without a restart."""
        request, api = acted.request, acted.program
        if not api.alive:
            return "api-exited", "the API ended when its connections were cut"
        if request.answer is None:
            return "request-unanswered", f"the request was not answered: {request.problem}"
        if request.answer.status not in (201, 503):
            return ("wrong-status-code",
                    f"the request was answered {request.answer.shown}, neither 201 nor 503")
        left = room.budgets.work
        while left > 0:
            began = room.history.now()
            again = api.wait_answer(api.send("POST", "/tasks", {"title": "the next one"}))
            if again is not None and again.status == 201:
                return None
            room.history.wait(lambda _: False, 0.1)
            left -= max(room.history.now() - began, 0.1)
        return ("not-well-again",
                f"{room.budgets.work:.0f} s later POST /tasks was still not answered 201")

    def _rows(self, room: Lab) -> list[dict[str, Any]]:
        return room.sql("SELECT * FROM tasks WHERE title = %s", (TITLE,))

    def _whole(self, row: dict[str, Any]) -> bool:
        return (row["priority"], row["status"], row["type"]) == (3, "pending", "generic")

    def _said(self, room: Lab) -> str:
        count = len(self._rows(room))
        return f"the table holds {count or 'no'} row{'' if count == 1 else 's'} of that one request"

    def evidence(self, room: Lab, acted: Acted) -> list[Evidence]:
        rows = room.sql("SELECT title, type, status, priority FROM tasks ORDER BY created_at")
        lines = ["  ".join(f"{name}={value}" for name, value in row.items()) for row in rows]
        return [Evidence("The table as it is now", tuple(lines) or ("(no row)",))]


class MigrateUp(Act):
    """The migrations are run on an empty database."""

    words = "migrate up"
    who = "migrate up"

    def begin(self, room: Lab, hold: Any) -> Acted:
        databases = [p.database for p in room.programs]
        database = databases[0] if databases else room.empty_database()
        migration = room.migrate("up", database, wait=False, prepare=hold)
        return Acted(migration)

    def went_well(self, room: Lab, acted: Acted) -> tuple[str, str] | None:
        migration = acted.program
        migration.expect_success()
        wrong = schema.difference(room, migration.database)
        return ("half-migrated", wrong) if wrong else None

    def judge(self, kind: str, room: Lab, acted: Acted) -> tuple[str, str] | None:
        if kind not in (CRASH, DISCONNECT):
            return self._both_well(room, acted)
        after = room.migrate("up", acted.program.database, wait=False)
        ended = after.wait_end()
        if ended is None or ended.code != 0:
            how = "did not end" if ended is None else f"ended with status {ended.code}"
            last = f": {after.lines[-1]}" if after.lines else ""
            return "half-migrated", f"the next migrate up {how}{last}"
        if wrong := schema.difference(room, after.database):
            return "half-migrated", f"after the next migrate up {wrong}"
        return None

    def _both_well(self, room: Lab, acted: Acted) -> tuple[str, str] | None:
        for migration in (acted.program, acted.data["other"].program):
            ended = migration.wait_end()
            if ended is None:
                return "still-running", f"{migration.name} did not end"
            if ended.code != 0:
                last = f": {migration.lines[-1]}" if migration.lines else ""
                return ("migration-failed",
                        f"{migration.name} ended with status {ended.code}{last}")
        wrong = schema.difference(room, acted.program.database)
        return ("half-migrated", f"after both {wrong}") if wrong else None
