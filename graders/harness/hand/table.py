"""The table of tasks as `make queue` shows it."""

from __future__ import annotations

from typing import Any

import psycopg

from graders.harness.report.text import clean, pad
from graders.harness.settings import Lab

STATUSES = ("pending", "processing", "completed", "failed")
AROUND = 4  # lines beside the rows: the counts, a blank one, the titles, the older ones

_LOOK = """
    SELECT left(id::text, 8), title, type, status, coalesce(assigned_worker, ''),
           extract(epoch FROM now() - created_at), extract(epoch FROM now() - updated_at)
    FROM tasks ORDER BY created_at DESC LIMIT %s
"""


def page(database: psycopg.Connection[Any], most: int, width: int, lab: Lab) -> list[str]:
    """The counts, and the newest tasks, the oldest of them first, in at most `most` lines."""
    counts = dict(database.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall())
    found = database.execute(_LOOK, (max(most - AROUND, 1),)).fetchall()
    total = sum(counts.values())
    lines = ["   ".join(f"{status} {counts.get(status, 0)}" for status in STATUSES), ""]
    if not total:
        add = f"make tasks LAB={lab.number} N=10"
        return [*lines, f"The table is empty. Add tasks with: {add}"]
    narrow = [8, 0, 8, 10, 18, 7, 7]
    narrow[1] = max(width - sum(narrow) - 2 * (len(narrow) - 1), 8)
    titles = ("id", "title", "type", "status", "worker", "added", "changed")
    lines.append("  ".join(map(pad, titles, narrow)).rstrip())
    if total > len(found):
        lines.append(f"… {total - len(found)} older tasks")
    for *texts, added, changed in reversed(found):
        cells = [clean(text) for text in texts] + [ago(added), ago(changed)]
        lines.append("  ".join(map(pad, cells, narrow)).rstrip())
    return lines


def ago(seconds: Any) -> str:
    """"12 s", "3 min" or "2 h"."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h"
