"""Tasks for the listing, and what the pages of GET /tasks have to be."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from graders.harness.api import Api, Request
from graders.harness.lab import Lab
from graders.harness.results import Evidence
from graders.lab02.asking import data_of, expect_status, send, words

Tasks = list[dict[str, Any]]


def fill(lab: Lab, count: int, same: range) -> Tasks:
    """Add so many tasks; returns them newest first.

    They are called “task 01” (the oldest) and so on; those with a number in `same` were created at
    one moment, as those of one transaction are. The rows lie in the table in another order.
    """
    chance = random.Random(f"{lab.session.options.seed} listing")
    born = datetime.now(UTC) - timedelta(hours=2)
    tasks = [
        {
            "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "title": f"task {number:02}",
            "created_at": born + timedelta(minutes=same.start if number in same else number),
        }
        for number in range(1, count + 1)
    ]
    for task in chance.sample(tasks, count):
        lab.sql(
            "INSERT INTO tasks (id, title, created_at, updated_at)"
            " VALUES (%(id)s, %(title)s, %(created_at)s, %(created_at)s)", task,
        )  # fmt: skip
    told = f"Added {count} tasks: “task 01” is the oldest, “task {count:02}” the newest"
    if len(same) > 1:
        told += (
            f"; “task {same.start:02}” to “task {same.stop - 1:02}” were created at one moment"
        )
    lab.tell(f"{told}.")
    return tasks[::-1]


def expect_page(
    api: Api, tasks: Tasks, page: int | None = None, limit: int | None = None, **query: str
) -> list[str]:
    """Ask for a page of these tasks (newest first); returns the ids that it has.

    Among those of one moment any order is right. Raises a Finding.
    """
    given = {"page": page, "limit": limit, **query}
    asked = urlencode({name: value for name, value in given.items() if value is not None})
    request = send(api, "GET", f"/tasks?{asked}" if asked else "/tasks")
    expect_status(api, request, 200)
    told = data_of(api, request)
    _expect_numbers(api, request, told, {
        "total": len(tasks), "page": 1 if page is None else page,
        "limit": 20 if limit is None else limit,
    })  # fmt: skip
    page, limit = told["page"], told["limit"]
    due = tasks[(page - 1) * limit : page * limit]
    listed = [each for each in told["tasks"] if isinstance(each, dict)]
    wrong = _difference(tasks, due, listed)
    if wrong:
        asked = "newest first"
        if due:
            asked += f", from “{due[0]['title']}” to “{due[-1]['title']}”"
        raise _wrong(
            api, request, f"It lists {len(due)} tasks, {asked}.", wrong,
            Evidence("The tasks of that page", (
                f"due:    {_titles(due)}", f"listed: {_titles(listed)}",
            )),
        )  # fmt: skip
    return [str(each["id"]).lower() for each in listed]


def _difference(tasks: Tasks, due: Tasks, listed: Tasks) -> str:
    """Where a page is not what is due: a sentence; "" if nowhere. Ties may come in any order."""
    moments = {task["id"]: task["created_at"] for task in tasks}
    for place, (task, each) in enumerate(zip(due, listed, strict=False), 1):
        if moments.get(str(each.get("id")).lower()) != task["created_at"]:
            return f"At place {place} stands {_titles([each])}, where {_titles([task])} is due."
    return "" if len(due) == len(listed) else f"It lists {len(listed)}."


def expect_each_once(api: Api, tasks: Tasks, limit: int) -> None:
    """Page after page, each of these tasks comes once. Raises a Finding."""
    pages = range(1, -(-len(tasks) // limit) + 1)
    shown = [id for page in pages for id in expect_page(api, tasks, page, limit)]
    for task in tasks:
        if (count := shown.count(task["id"])) != 1:
            raise api.lab.finding(
                "wrong-page",
                f"On the {len(pages)} pages of limit={limit} each task stands once, also where "
                "several were created at one moment.",
                f"“{task['title']}” stands on "
                + ("none of them." if not count else f"{count} of them."),
                api.statement_evidence(),
            )


def _expect_numbers(api: Api, request: Request, told: Any, due: dict[str, int]) -> None:
    if not isinstance(told, dict) or not isinstance(told.get("tasks"), list):
        raise _wrong(api, request, "Its data has a list in “tasks”.", "It has none.")
    for name, number in due.items():
        if told.get(name) != number:
            raise _wrong(api, request, f"It says that “{name}” is {number}.",
                         f"It says that “{name}” is {told.get(name)}.")


def _wrong(api: Api, request: Request, expected: str, seen: str, *more: Evidence) -> Exception:
    return api.lab.finding(
        "wrong-page", f"{words(api, request)} is answered with that page. {expected}", seen,
        *more, api.statement_evidence(3), api.exchange_evidence(request),
    )  # fmt: skip


def _titles(tasks: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"“{task.get('title')}”" for task in tasks) or "(none)"
