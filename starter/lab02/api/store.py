"""The tasks table: all the SQL of the API, and its pool of connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from .models import NewTask, Status, TaskChanges

Row = dict[str, Any]  # a task, with all its columns

POOL_MAX_SIZE = 10  # requests beyond that wait for a connection,
POOL_TIMEOUT = 3  # for so many seconds

# A value goes in as %s or %(name)s and is given beside the statement, never inside it.
INSERT = ""  # TODO 4: a new task
SELECT_PAGE = ""  # TODO 6: one page of tasks, the newest first
COUNT = ""  # TODO 6: how many there are on all pages
SELECT = ""  # TODO 5: one task
SELECT_LOCKED = ""  # TODO 7: one task that nobody else can change until we have
UPDATE = ""  # TODO 7: the changed task
DELETE = ""  # TODO 8: the task is gone


class NotFailed(Exception):
    """Only a task that has failed can be put back to pending."""


def open_store(database_url: str) -> TaskStore:
    """A store whose pool is not open yet. No server has to be there, now or later."""
    # TODO 17: limits for whatever else a request may wait for, and a pool that is well again soon.
    raise NotImplementedError("TODO 1 is open: make a pool of connections (api/store.py)")


@dataclass(frozen=True)
class TaskStore:
    """The tasks. Every method raises psycopg.OperationalError when PostgreSQL does not answer."""

    pool: AsyncConnectionPool

    async def add(self, task: NewTask) -> Row:
        raise NotImplementedError("TODO 4 is open: put a task into the table (api/store.py)")

    async def page(self, page: int, limit: int, status: Status | None) -> tuple[list[Row], int]:
        """The tasks of one page, the newest first, and how many there are on all pages."""
        raise NotImplementedError("TODO 6 is open: read one page of the table (api/store.py)")

    async def get(self, id: UUID) -> Row | None:
        raise NotImplementedError("TODO 5 is open: find a task by its id (api/store.py)")

    async def change(self, id: UUID, changes: TaskChanges) -> Row | None:
        """The changed task, or None if there is none. Raises NotFailed."""
        raise NotImplementedError("TODO 7 is open: change a task (api/store.py)")

    async def delete(self, id: UUID) -> Row | None:
        """The task that was deleted, or None if there is none."""
        raise NotImplementedError("TODO 8 is open: delete a task (api/store.py)")

    async def ping(self) -> None:
        raise NotImplementedError("TODO 2 is open: ask PostgreSQL something (api/store.py)")
