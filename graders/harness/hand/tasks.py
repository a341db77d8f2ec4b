"""`make tasks` and `make queue`: add tasks, and look at the table."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import psycopg

from graders.harness import settings
from graders.harness.hand import servers
from graders.harness.report.text import clean, emit, pad
from graders.harness.settings import Lab, SettingError

TASKS = 10
WIDTH = 100
REFRESH = 1.0  # seconds between two looks at the table
ROWS_IN_A_PIPE = 200

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
FAILING = ("fail: charge an expired card", "generic")
EMAIL = ("Send the invoice of order 1042", "email")

STATUSES = ("pending", "processing", "completed", "failed")

_ADD = """
    INSERT INTO tasks (title, description, type, priority, created_at)
    VALUES (%s, %s, %s, %s, clock_timestamp())
"""
_LOOK = """
    SELECT left(id::text, 8), title, type, status, coalesce(assigned_worker, ''),
           extract(epoch FROM now() - created_at), extract(epoch FROM now() - updated_at)
    FROM tasks ORDER BY created_at DESC LIMIT %s
"""


def add(env: Mapping[str, str]) -> int:
    """Add N tasks: one whose work fails, from five on one e-mail, the others of the usual kind."""
    chosen = settings.read(env)
    number = chosen.n or TASKS
    tasks = made_up(number)
    with _database(chosen.the_lab, env) as database:
        for n, (title, kind) in enumerate(tasks):
            database.execute(_ADD, (title, "added by hand", kind, n % 3))
    fails = sum(title.startswith("fail") for title, _ in tasks)
    mails = sum(kind == "email" for _, kind in tasks)
    special = [f"{mails} of type email"] * mails + [f"{fails} whose work fails"] * fails
    among = f", {' and '.join(special)} among them" if special else ""
    print(f"Added {number} task{'' if number == 1 else 's'}{among}.")
    return 0


def made_up(number: int) -> list[tuple[str, str]]:
    """Title and type of so many tasks; the special ones stand third and fourth."""
    tasks = [(TITLES[n % len(TITLES)] if n < len(TITLES) else
              f"{TITLES[n % len(TITLES)]} ({n // len(TITLES) + 1})", "generic")
             for n in range(number)]
    if number >= 2:
        tasks[min(2, number - 1)] = FAILING
    if number >= 5:
        tasks[3] = EMAIL
    return tasks


def queue(env: Mapping[str, str]) -> int:
    """Show the table, on a terminal again and again until Ctrl-C, else once."""
    chosen = settings.read(env)
    live = sys.stdout.isatty()
    with _database(chosen.the_lab, env) as database:
        try:
            while True:
                size = shutil.get_terminal_size((WIDTH, 24))
                rows = max(size.lines - 6, 3) if live else ROWS_IN_A_PIPE
                lines = _page(database, rows, min(size.columns, WIDTH) if live else WIDTH)
                if live:
                    sys.stdout.write("\x1b[H\x1b[J")  # home, and clear what is below
                    lines.append("Ctrl-C ends this view; the workers go on.")
                emit(lines, sys.stdout, color=False)
                sys.stdout.flush()
                if not live:
                    return 0
                time.sleep(REFRESH)
        except KeyboardInterrupt:
            print()
            return 0
        except psycopg.OperationalError:
            raise SettingError("The database does not answer any more.") from None


def _page(database: psycopg.Connection[Any], rows: int, width: int) -> list[str]:
    counts = dict(database.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall())
    found = database.execute(_LOOK, (rows,)).fetchall()
    total = sum(counts.values())
    lines = ["   ".join(f"{status} {counts.get(status, 0)}" for status in STATUSES), ""]
    if not total:
        return [*lines, "The table is empty. Add tasks with: make tasks LAB=03 N=10"]
    narrow = [8, 0, 8, 10, 18, 7, 7]
    narrow[1] = max(width - sum(narrow) - 2 * (len(narrow) - 1), 8)
    titles = ("id", "title", "type", "status", "worker", "added", "changed")
    lines.append("  ".join(map(pad, titles, narrow)).rstrip())
    if total > len(found):
        lines.append(f"… {total - len(found)} older tasks")
    for *texts, added, changed in reversed(found):
        cells = [clean(text) for text in texts] + [_ago(added), _ago(changed)]
        lines.append("  ".join(map(pad, cells, narrow)).rstrip())
    return lines


def _ago(seconds: Any) -> str:
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h"


def _database(lab: Lab, env: Mapping[str, str]) -> psycopg.Connection[Any]:
    """The lab's database, for its owner. Raises SettingError."""
    url = servers.admin_url(lab, env)
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0]
        raise SettingError(f"The database cannot be reached: {first}") from None
