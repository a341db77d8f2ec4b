"""Tasks in the table, what requests make of them, and what answers say of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from graders.harness.api import Api, Request
from graders.harness.lab import Lab, Task
from graders.harness.results import Evidence
from graders.lab02.asking import data_of, expect_status, send, words

Row = Mapping[str, Any]

DEFAULTS = {"description": None, "type": "generic", "status": "pending", "priority": 0,
            "assigned_worker": None}  # fmt: skip
TEXTS = ("title", "description", "type", "status", "assigned_worker")
TIMES = ("created_at", "updated_at")
NEAR = 1.0  # seconds; some write a time without its fraction
# Seconds by which two clocks may differ. The offset of any time zone is more than that.
CLOCKS = 600.0


def add(lab: Lab, status: str = "pending", worker: str = "worker-7") -> Task:
    """Add a task that has got to this status already, by the hands of this worker."""
    task = lab.add_task()
    if status != "pending":
        set_status(lab, task, status, worker)
    return task


def set_status(lab: Lab, task: Task, status: str, worker: str) -> None:
    """Bring a task to this status, by the hands of this worker."""
    lab.sql(
        "UPDATE tasks SET status = %s, assigned_worker = %s WHERE id = %s",
        (status, worker, task.id),
    )
    lab.tell(f"Made {task} “{status}”, with assigned_worker “{worker}”.")


def path_of(task: Task | str) -> str:
    """Where a task is asked for."""
    return f"/tasks/{task if isinstance(task, str) else task.id}"


def stored(lab: Lab) -> dict[str, Row]:
    """All rows of the table, by id."""
    return {str(row["id"]): row for row in lab.sql("SELECT * FROM tasks ORDER BY created_at")}


# Requests, with what they have to make of the table


def create(api: Api, data: dict[str, Any]) -> str:
    """POST a task, which is stored as it was sent, with the time of now; returns its id."""
    since = _now(api.lab)
    request = send(api, "POST", "/tasks", data)
    expect_status(api, request, 201)
    id = expect_created(api, request, data)
    _expect_now(api, request, stored(api.lab)[id], since, *TIMES)
    return id


def create_in_turn(api: Api, *tasks: dict[str, Any]) -> None:
    """POST these tasks, one after the other; each is younger than the one before."""
    ids = [create(api, data) for data in tasks]
    there = stored(api.lab)
    born = [there[id]["created_at"] for id in ids]
    for before, after in itertools.pairwise(born):
        if after <= before:
            raise api.lab.finding(
                "row-wrong", "The created_at of a task is the time at which it was created.",
                f"A task that was created later has {_shown(after)}, and one that was created "
                f"before it has {_shown(before)}.",
                api.statement_evidence(),
            )  # fmt: skip


def _now(lab: Lab) -> datetime:
    """The time by the clock of the database."""
    return lab.sql("SELECT clock_timestamp() AS now")[0]["now"]


def _expect_now(api: Api, request: Request, row: Row, since: datetime, *names: str) -> None:
    """These times of a row are that of the request, which was sent after `since`."""
    apart = timedelta(seconds=CLOCKS)
    until = _now(api.lab)
    for name in names:
        if not since - apart <= row[name] <= until + apart:
            raise api.lab.finding(
                "row-wrong", f"{words(api, request)} sets {name} to the time of the request.",
                f"It was sent at {_shown(since)}, and {name} is {_shown(row[name])}.",
                evidence(row), api.statement_evidence(),
            )  # fmt: skip


def expect_created(api: Api, request: Request, data: Mapping[str, Any], what: str = "") -> str:
    """There is a row for a task that was answered as created; returns its id."""
    told = data_of(api, request)
    id = str(told.get("id")).lower() if isinstance(told, dict) else "(none)"
    row = stored(api.lab).get(id)
    asked = f"POST with {what}" if what else words(api, request)
    expected = f"{asked} stores the task as it was sent"
    if row is None:
        raise api.lab.finding(
            "row-wrong", f"{expected}.",
            "In the database there is no task with the id that was answered.",
            api.exchange_evidence(request), api.statement_evidence(),
        )  # fmt: skip
    _expect_row(api, request, expected, row, {**DEFAULTS, **data})
    expect_task(api, request, told, row)
    return id


def change(api: Api, task: Task, changes: Mapping[str, Any], untouched: Task) -> None:
    """PUT these changes, and nothing else of this task changes, nor does another one."""
    before, since = stored(api.lab), _now(api.lab)
    request = send(api, "PUT", path_of(task), dict(changes))
    expect_status(api, request, 200)
    after = stored(api.lab)
    row, was = after.get(task.id), before[task.id]
    due = {**was, **changes}
    due.pop("updated_at")
    if "status" in changes:
        due["assigned_worker"] = None
    _expect_row(api, request, f"{words(api, request)} changes that and nothing else", row, due)
    if row["updated_at"] <= was["updated_at"]:
        raise api.lab.finding(
            "row-wrong", f"{words(api, request)} sets updated_at to the time of the change.",
            "updated_at is what it was before.", evidence(row), api.statement_evidence(),
        )  # fmt: skip
    _expect_now(api, request, row, since, "updated_at")
    expect_task(api, request, data_of(api, request), row)
    _expect_untouched(api, request, untouched, before, after)


def show(api: Api, task: Task) -> None:
    """GET a task; the answer shows it as its row is now."""
    request = send(api, "GET", path_of(task))
    expect_status(api, request, 200)
    expect_task(api, request, data_of(api, request), api.lab.row(task))


def delete(api: Api, task: Task, untouched: Task) -> None:
    """DELETE this task; the answer shows it as it was, and no other one goes."""
    before = stored(api.lab)
    request = send(api, "DELETE", path_of(task))
    expect_status(api, request, 200)
    after = stored(api.lab)
    if task.id in after:
        raise api.lab.finding(
            "row-wrong", f"DELETE removes {task}.", "Its row is still there.",
            api.exchange_evidence(request), evidence(after[task.id]), api.statement_evidence(),
        )  # fmt: skip
    expect_task(api, request, data_of(api, request), before[task.id])
    _expect_untouched(api, request, untouched, before, after)


def expect_unchanged(api: Api, request: Request, before: Mapping[str, Row]) -> None:
    """A request that was refused has left every row as it was. Raises a Finding."""
    after = stored(api.lab)
    if after == before:
        return
    seen = "A task has gone." if before.keys() - after.keys() else (
        "There is a task more than before." if after.keys() - before.keys()
        else "A row is not what it was before."
    )  # fmt: skip
    raise api.lab.finding(
        "row-wrong", f"{words(api, request)}, which is refused, changes nothing.", seen,
        api.exchange_evidence(request), api.statement_evidence(),
    )  # fmt: skip


def _expect_row(api: Api, request: Request, expected: str, row: Row, due: Row) -> None:
    for name, value in due.items():
        if row[name] != value:
            raise api.lab.finding(
                "row-wrong", f"{expected}: “{name}” is {_shown(value)}.",
                f"In the database it is {_shown(row[name])}.",
                api.exchange_evidence(request), evidence(row), api.statement_evidence(),
            )  # fmt: skip


def _expect_untouched(
    api: Api, request: Request, other: Task, before: Mapping[str, Row], after: Mapping[str, Row]
) -> None:
    if after.get(other.id) != before[other.id]:
        raise api.lab.finding(
            "row-wrong", f"{words(api, request)} leaves {other}, another task, alone.",
            f"{other} is {'not what it was before' if other.id in after else 'gone'}.",
            evidence(after.get(other.id)),
            api.statement_evidence(),
        )  # fmt: skip


# What an answer says of a task


def expect_task(api: Api, request: Request, told: Any, row: Row) -> None:
    """What an answer says of a task is what its row says. Raises a Finding."""
    wrong = _difference(told, row)
    if wrong:
        raise api.lab.finding(
            "wrong-answer", f"The answer to {words(api, request)} shows the task as its row is.",
            wrong, api.exchange_evidence(request), evidence(row),
        )  # fmt: skip


def evidence(row: Row | None) -> Evidence:
    """A row, column by column."""
    if row is None:
        return Evidence("The row in the database", ("(there is none)",))
    lines = tuple(f"{name} = {_shown(value)}" for name, value in row.items())
    return Evidence("The row in the database", lines)


def _difference(told: Any, row: Row) -> str:
    """The first thing in which a task that was answered is not what its row is; "" if none."""
    if not isinstance(told, dict):
        return f"Its data is {_shown(told)}, and not a JSON object."
    for name in ("id", *TEXTS, "priority", *TIMES):
        if name not in told:
            return f"It has no “{name}”."
    if str(told["id"]).lower() != str(row["id"]):
        return f"Its “id” is {_shown(told['id'])}, and the row's is {_shown(str(row['id']))}."
    for name in (*TEXTS, "priority"):
        if told[name] != row[name] or isinstance(told[name], bool):
            return f"Its “{name}” is {_shown(told[name])}, and the row's is {_shown(row[name])}."
    for name in TIMES:
        moment = _moment(told[name])
        if moment is None:
            shown = _shown(told[name])
            return f"Its “{name}” is {shown}, no time with its offset, as RFC 3339 writes it."
        if abs((moment - row[name]).total_seconds()) >= NEAR:
            return f"Its “{name}” is {_shown(told[name])}, and the row's is {_shown(row[name])}."
    return ""


def _moment(told: Any) -> datetime | None:
    """A time as it stands in JSON; None for none. Without its offset nobody knows which it is."""
    if not isinstance(told, str):
        return None
    try:
        moment = datetime.fromisoformat(told)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, str):
        return f"“{value if len(value) <= 80 else value[:80] + '…'}”"
    return str(value)
