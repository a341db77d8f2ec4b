"""The Redis queue as `make queue` shows it: the jobs that wait, malformed ones, the results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from graders.harness.hand.table import ago
from graders.harness.report.text import clean, cut, pad
from graders.harness.settings import Lab

if TYPE_CHECKING:
    import redis

QUEUE, MALFORMED, RESULT = "work_queue", "work_queue:malformed", "result:"
STATUSES = ("completed", "failed")
AT_ONCE = 500  # keys that are scanned, and results that are fetched, in one command
RESULT_HEAD = ("subtask", "status", "worker", "ended", "description")
ID = 18  # columns for a subtask's id, which is cut in its middle: all begin and end alike
RESULT_COLUMNS = (ID, 10, 18, 7, 200)  # the last is cut at the page's edge


@dataclass
class _Section:
    """One part of the page: a title, the head of its columns, and rows of which some are shown."""

    title: str
    head: str
    rows: list[str]
    total: int
    more: str  # what those are that are not shown
    share: int = 0  # lines for rows

    def lines(self) -> Iterator[str]:
        """A blank line, the title, the head, and at most `share` lines about the rows."""
        yield from ("", self.title, self.head) if self.head else ("", self.title)
        shown = self.rows[: self.share if self.total <= self.share else self.share - 1]
        yield from shown
        if self.total > len(shown):
            yield f"… {self.total - len(shown)} {self.more}"


def page(server: redis.Redis, most: int, width: int, lab: Lab) -> list[str]:
    """The counts, and what waits, was put aside and came out, in about `most` lines."""
    waiting, jobs = _entries(server, QUEUE, most)
    aside, malformed = _entries(server, MALFORMED, most)
    results = sorted(_results(server), key=lambda result: result[1], reverse=True)
    lines = [_counts(waiting, aside, Counter(status for status, *_ in results))]
    for name in (QUEUE, MALFORMED):
        kind = server.type(name).decode()
        if kind not in ("list", "none"):
            lines.append(f"{name} is a {kind} and not a list: no worker can take a job from it.")
    sections = [
        _Section(f"{QUEUE}, the next one first", f"{pad('subtask', ID)}  priority  description",
                 list(map(_job, jobs)), waiting, "behind them"),
        _Section(f"{MALFORMED}, the oldest first", "", list(map(_text, malformed)), aside, "newer"),
        _Section("results, the newest first", "  ".join(map(pad, RESULT_HEAD, RESULT_COLUMNS)),
                 [row for *_, row in results[:most]], len(results), "older"),
    ]  # fmt: skip
    sections = [section for section in sections if section.total]
    if not sections:
        lines += ["", f"The queue is empty. Add tasks with: make tasks LAB={lab.number} N=3"]
    # Each part gets its share of the lines, and what another one does not need.
    left = most - len(lines) - sum(2 + bool(section.head) for section in sections)
    for n, section in enumerate(sorted(sections, key=lambda section: section.total)):
        section.share = min(section.total, max(left // (len(sections) - n), 2))
        left -= section.share
    for section in sections:
        lines += section.lines()
    return [cut(line.rstrip(), width) for line in lines]


def _counts(waiting: int, aside: int, statuses: Counter[str]) -> str:
    told = [f"{status} {statuses[status]}" for status in STATUSES]
    others = statuses.total() - sum(statuses[status] for status in STATUSES)
    told += [f"other {others}"] if others else []
    return f"{QUEUE} {waiting}   {MALFORMED} {aside}   results: {', '.join(told)}"


def _entries(server: redis.Redis, name: str, most: int) -> tuple[int, list[bytes]]:
    """How long a list is, and the entries at its right end, the oldest first."""
    if server.type(name) != b"list":
        return 0, []
    entries = server.lrange(name, -most, -1)
    return server.llen(name), entries[::-1]


def _job(entry: bytes) -> str:
    told = _object(entry)
    if told is None or not {"subtask_id", "priority", "description"} <= told.keys():
        return f"not a job: {_text(entry)}"
    priority = _cell(told["priority"]).rjust(8)
    return "  ".join((_id(told["subtask_id"]), priority, _cell(told["description"])))


def _results(server: redis.Redis) -> Iterator[tuple[str, float, str]]:
    """Status, time of the end and row of each result."""
    names = sorted(set(server.scan_iter(match=f"{RESULT}*", count=AT_ONCE)))
    now = datetime.now(UTC)
    for at in range(0, len(names), AT_ONCE):
        some = names[at : at + AT_ONCE]
        for name, entry in zip(some, server.mget(some), strict=True):
            yield _result(_text(name.removeprefix(RESULT.encode())), entry, now)


def _result(subtask: str, entry: bytes | None, now: datetime) -> tuple[str, float, str]:
    told = _object(entry) if entry is not None else None
    if told is None:
        shown = "not a string" if entry is None else f"not a result: {_text(entry)}"
        return "", 0.0, f"{_id(subtask)}  {shown}"
    status, ended = _cell(told.get("status")), _cell(told.get("completed_at"))
    at = 0.0
    try:
        moment = datetime.fromisoformat(str(told.get("completed_at")))
        at = moment.timestamp()
        ended = ago((now - moment).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no time, or one without its offset from UTC
        pass
    cells = (_id(subtask), status, _cell(told.get("worker_id")), ended,
             _cell(told.get("description")))  # fmt: skip
    return status, at, "  ".join(map(pad, cells, RESULT_COLUMNS))


def _object(entry: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(entry.decode())
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _id(value: Any) -> str:
    return pad(cut(_cell(value), ID, middle=True), ID)


def _cell(value: Any) -> str:
    if value is None:
        return "(none)"
    return clean(value if isinstance(value, str) else json.dumps(value))


def _text(raw: bytes) -> str:
    return clean(raw.decode("utf-8", "backslashreplace"))
