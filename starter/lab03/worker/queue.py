"""The tasks table as a queue: connect, claim a task, record how it ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

log = logging.getLogger(__name__)

Task = Mapping[str, Any]  # id, title, description, type, priority

RECONNECT_PAUSE = 0.5  # seconds between two tries, however long the poll interval is

# A value goes in as %s and is given beside the statement: connection.execute(CLAIM, [value, …]).
RECOVER = ""  # TODO 14: tasks in processing for too long go back to pending
SELECT_OLDEST = ""  # TODO 1: the oldest pending task;  TODO 12: that nobody else is taking
CLAIM = ""  # TODO 1: this task is in processing, and it is ours, since now
RECORD = ""  # TODO 3: this task has ended;  TODO 13: if it is still ours


class ConnectError(Exception):
    """PostgreSQL cannot be used. The text names the host, and never shows a password."""


def connect(database_url: str) -> ConnectionPool:
    """Verify that PostgreSQL can be used, and open a pool of connections to it."""
    # TODO 10: raise ConnectError when PostgreSQL cannot be used, and choose the pool's settings.
    pool = ConnectionPool(
        database_url,
        kwargs={"autocommit": True, "row_factory": dict_row},
        open=True,
    )
    pool.wait(timeout=10)
    return pool


@dataclass(frozen=True)
class TaskQueue:
    """The queue as one worker sees it."""

    pool: ConnectionPool
    worker_id: str
    stuck_after: float  # seconds

    def claim(self) -> Task | None:
        """Make the oldest pending task ours; None if there is none."""
        raise NotImplementedError("TODO 1 is open: claim the oldest pending task (worker/queue.py)")

    def record(self, task: Task, status: str) -> None:
        """Record `completed` or `failed`, and keep trying while PostgreSQL is away."""
        raise NotImplementedError("TODO 3 is open: record how the task ended (worker/queue.py)")


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return str(error)  # TODO 10: PostgreSQL's errors have more than one line
