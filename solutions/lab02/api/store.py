"""The tasks table: all the SQL of the API, and its pool of connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from .models import NewTask, Status, TaskChanges

Row = dict[str, Any]  # a task, with all its columns

POOL_MAX_SIZE = 10  # requests beyond that wait for a connection,
POOL_TIMEOUT = 3  # for so many seconds

INSERT = """
    INSERT INTO tasks (title, description, type, priority)
    VALUES (%(title)s, %(description)s, %(type)s, %(priority)s)
    RETURNING *
"""
SELECT_PAGE = """
    SELECT * FROM tasks
    WHERE %(status)s::text IS NULL OR status = %(status)s
    ORDER BY created_at DESC, id DESC
    LIMIT %(limit)s OFFSET %(offset)s
"""
COUNT = """
    SELECT count(*) FROM tasks
    WHERE %(status)s::text IS NULL OR status = %(status)s
"""
SELECT = "SELECT * FROM tasks WHERE id = %s"
SELECT_LOCKED = "SELECT * FROM tasks WHERE id = %s FOR UPDATE"
UPDATE = """
    UPDATE tasks
    SET title = %(title)s, description = %(description)s, priority = %(priority)s,
        status = %(status)s, assigned_worker = %(assigned_worker)s, updated_at = now()
    WHERE id = %(id)s
    RETURNING *
"""
DELETE = "DELETE FROM tasks WHERE id = %s RETURNING *"


class NotFailed(Exception):
    """Only a task that has failed can be put back to pending."""


def open_store(database_url: str) -> TaskStore:
    """A store whose pool is not open yet. No server has to be there, now or later."""
    pool = AsyncConnectionPool(
        database_url,
        kwargs={
            "autocommit": True,  # a statement is a transaction of its own, unless one is opened
            "row_factory": dict_row,
            # A request may wait for a connection, for a lock, or for a network that has gone
            # silent. Each of these has a limit, so that it is answered within five seconds.
            "connect_timeout": POOL_TIMEOUT,
            "options": "-c statement_timeout=2s -c timezone=UTC",
            "tcp_user_timeout": 2000,  # milliseconds
        },
        min_size=1,
        max_size=POOL_MAX_SIZE,
        timeout=POOL_TIMEOUT,
        # A lost connection is replaced by tries with growing pauses, here for 1 s. A request that
        # comes after that starts anew with short pauses, so the API is well soon.
        reconnect_timeout=1,
        open=False,
    )
    return TaskStore(pool)


@dataclass(frozen=True)
class TaskStore:
    """The tasks. Every method raises psycopg.OperationalError when PostgreSQL does not answer."""

    pool: AsyncConnectionPool

    async def add(self, task: NewTask) -> Row:
        return await self._one(INSERT, task.model_dump())

    async def page(self, page: int, limit: int, status: Status | None) -> tuple[list[Row], int]:
        """The tasks of one page, the newest first, and how many there are on all pages."""
        values = {"status": status, "limit": limit, "offset": (page - 1) * limit}
        async with self.pool.connection() as connection:
            tasks = await connection.execute(SELECT_PAGE, values)
            count = await connection.execute(COUNT, values)
            return await tasks.fetchall(), (await count.fetchone())["count"]

    async def get(self, id: UUID) -> Row | None:
        return await self._one(SELECT, [id])

    async def change(self, id: UUID, changes: TaskChanges) -> Row | None:
        """The changed task, or None if there is none. Raises NotFailed."""
        async with self.pool.connection() as connection, connection.transaction():
            # Locked, so that no worker changes it between our look and our UPDATE.
            found = await connection.execute(SELECT_LOCKED, [id])
            task = await found.fetchone()
            if task is None:
                return None
            if changes.status:
                if task["status"] != "failed":
                    raise NotFailed
                task["assigned_worker"] = None
            changed = await connection.execute(
                UPDATE, task | changes.model_dump(exclude_unset=True)
            )
            return await changed.fetchone()

    async def delete(self, id: UUID) -> Row | None:
        """The task that was deleted, or None if there is none."""
        return await self._one(DELETE, [id])

    async def ping(self) -> None:
        await self._one("SELECT 1")

    async def _one(self, statement: str, values: Any = None) -> Row | None:
        """The first row of one statement's result, or None."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchone()
