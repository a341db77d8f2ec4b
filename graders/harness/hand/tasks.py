"""`make tasks`: add tasks, through the API that is running, else where a worker finds them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from graders.harness import settings
from graders.harness.hand import stores
from graders.harness.hand.jobs import QUEUE
from graders.harness.hand.posting import find_api, post
from graders.harness.report.text import clean, cut
from graders.harness.settings import Lab, SettingError

TASKS = 10
LISTED = 10  # of what was added, so many lines
WIDTH = 100

TITLES = (
    "Resize the photos of album 3",
    "Write the report for March",
    "Count the words of chapter 7",
    "Import the list of suppliers",
    "Make thumbnails of album 12",
    "Check links in the handbook",
    "Translate the release notes",
    "Compress last week's logs",
    "Render page 40",
    "Build the search index",
)
# For who splits tasks: one of each kind comes first.
TO_SPLIT = (
    "Give album 3 a login of its own",
    "Build a REST API for orders",
    *TITLES,
)
FAILING = ("fail: charge an expired card", "generic")
EMAIL = ("Send the invoice of order 1042", "email")

_ADD = """
    INSERT INTO tasks (title, description, type, priority, created_at)
    VALUES (%s, %s, %s, %s, clock_timestamp())
"""


def add(env: Mapping[str, str]) -> int:
    """Add N tasks and say where they went. Without an API, one of several has work that fails."""
    chosen = settings.read(env)
    lab, number = chosen.the_lab, chosen.n or TASKS
    api = find_api(lab, chosen.api_url if "api" in lab.roles else None)
    if api:
        _post(lab, api, number)
    elif "postgres" in lab.services:
        _insert(lab, env, number)
    else:
        _push(lab, env, number)
    return 0


def made_up(number: int) -> list[tuple[str, str]]:
    """Title and type of so many tasks; the special ones stand third and fourth."""
    tasks = [(title, "generic") for title in _titles(TITLES, number)]
    if number >= 2:
        tasks[min(2, number - 1)] = FAILING
    if number >= 5:
        tasks[3] = EMAIL
    return tasks


def _titles(known: tuple[str, ...], number: int) -> list[str]:
    """So many titles, all different."""
    return [
        known[n % len(known)] + (f" ({n // len(known) + 1})" if n >= len(known) else "")
        for n in range(number)
    ]


def _post(lab: Lab, api: str, number: int) -> None:
    bodies: list[dict[str, Any]]
    if "postgres" in lab.services:
        bodies = [
            {"title": title, "description": "added by hand", "type": kind, "priority": n % 3}
            for n, (title, kind) in enumerate(made_up(number))
        ]
    else:
        bodies = [
            {"description": text, "priority": n % 3}
            for n, text in enumerate(_titles(TO_SPLIT, number))
        ]
    # Told as they go: if the API refuses the third, two are in.
    print(f"Posting {_counted(number, 'task')} to the API at {api}:", flush=True)
    for n, body in enumerate(bodies):
        known_by = post(api, body)
        if n < LISTED:
            print(_line(known_by, body), flush=True)
    if number > LISTED:
        print(f"  … and {number - LISTED} more")


def _insert(lab: Lab, env: Mapping[str, str], number: int) -> None:
    tasks = made_up(number)
    try:
        with stores.database(lab, env) as database:
            for n, (title, kind) in enumerate(tasks):
                database.execute(_ADD, (title, "added by hand", kind, n % 3))
    except stores.NoTable:
        if "api" not in lab.roles:
            raise
        raise SettingError(
            f"There is no table “tasks” yet (make migrate LAB={lab.number}), and no API is running "
            f"(make api LAB={lab.number})."
        ) from None
    if "api" in lab.roles:
        print(f"No API of lab {lab.number} is running, so they go straight into the table.")
    print(f"Added {_counted(number, 'task')}{_special(tasks)}.")


def _push(lab: Lab, env: Mapping[str, str], number: int) -> None:
    tasks = made_up(number)
    jobs = []
    for n, (text, _) in enumerate(tasks):
        task_id = str(uuid.uuid4())
        jobs.append({
            "task_id": task_id, "subtask_id": f"{task_id}-0", "description": text,
            "priority": n % 3,
        })  # fmt: skip
    with stores.queue_server(env) as server:
        server.lpush(QUEUE, *map(json.dumps, jobs))  # popped right, so the first is worked first
    print(f"No API of lab {lab.number} is running, so jobs go straight onto {QUEUE}.")
    print(f"Added {_counted(number, 'job')}{_special([(text, '') for text, _ in tasks])}:")
    for job in jobs[:LISTED]:
        print(_line(job["subtask_id"], job))
    if number > LISTED:
        print(f"  … and {number - LISTED} more")


def _line(known_by: str, body: Mapping[str, Any]) -> str:
    text = f"  {clean(known_by)}  priority {body['priority']}  "
    return cut(text + str(body.get("title") or body["description"]), WIDTH)


def _special(tasks: list[tuple[str, str]]) -> str:
    fails = sum(title.startswith("fail") for title, _ in tasks)
    mails = sum(kind == "email" for _, kind in tasks)
    special = [f"{mails} of type email"] * mails + [f"{fails} whose work fails"] * fails
    return f", {' and '.join(special)} among them" if special else ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
