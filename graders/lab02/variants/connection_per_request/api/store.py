"""The tasks table, by a connection for each request, ten of them at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Placeholder

from .models import NewTask, Status, TaskChanges

Row = dict[str, Any]

AT_ONCE = 10
INSERT = """
    INSERT INTO tasks (id, title, description, type, priority)
    VALUES (%(id)s, %(title)s, %(description)s, %(type)s, %(priority)s)
    ON CONFLICT (id) DO NOTHING
"""
SELECT_PAGE = """
    SELECT *, count(*) OVER () AS total FROM tasks
    WHERE status = ANY(%(statuses)s)
    ORDER BY created_at DESC, id
    LIMIT %(limit)s OFFSET %(offset)s
"""
COUNT = "SELECT count(*) AS total FROM tasks WHERE status = ANY(%(statuses)s)"
SELECT = "SELECT * FROM tasks WHERE id = %s"
DELETE = "DELETE FROM tasks WHERE id = %s RETURNING *"
STATUSES = ["pending", "processing", "completed", "failed"]


class NotFailed(Exception):
    """Only a task that has failed can be put back to pending."""


class TaskStore:
    """The tasks. Raises psycopg.OperationalError when PostgreSQL does not answer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def add(self, task: NewTask) -> Row:
        values = {"id": uuid4(), **task.model_dump()}

        def work(connection: psycopg.Connection) -> Row:
            connection.execute(INSERT, values)
            return connection.execute(SELECT, [values["id"]]).fetchone()

        return self._twice(work)

    def page(self, page: int, limit: int, status: Status | None) -> tuple[list[Row], int]:
        values = {
            "statuses": [status] if status else STATUSES,
            "limit": limit,
            "offset": (page - 1) * limit,
        }

        def work(connection: psycopg.Connection) -> tuple[list[Row], int]:
            rows = connection.execute(SELECT_PAGE, values).fetchall()
            if rows:
                return rows, rows[0]["total"]
            return [], connection.execute(COUNT, values).fetchone()["total"]

        return self._twice(work)

    def get(self, id: UUID) -> Row | None:
        return self._twice(lambda connection: connection.execute(SELECT, [id]).fetchone())

    def change(self, id: UUID, changes: TaskChanges) -> Row | None:
        """Compare and set: the status is looked at by the UPDATE itself."""
        given = changes.model_dump(exclude_unset=True)
        sets = [SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in given]
        sets.append(SQL("updated_at = now()"))
        only = SQL("")
        if "status" in given:
            sets.append(SQL("assigned_worker = NULL"))
            only = SQL(" AND status = 'failed'")
        update = SQL("UPDATE tasks SET {} WHERE id = {}{} RETURNING *").format(
            SQL(", ").join(sets), Placeholder("id"), only
        )
        with self._connection() as connection:
            row = connection.execute(update, {**given, "id": id}).fetchone()
            if row is None and connection.execute(SELECT, [id]).fetchone() is not None:
                raise NotFailed
            return row

    def delete(self, id: UUID) -> Row | None:
        with self._connection() as connection:
            return connection.execute(DELETE, [id]).fetchone()

    def ping(self) -> None:
        with self._connection() as connection:
            connection.execute("SELECT 1")

    def _twice(self, work: Callable[[psycopg.Connection], Any]) -> Any:
        """Do it, and once more on another connection if the first one is lost."""
        try:
            with self._connection() as connection:
                return work(connection)
        except psycopg.OperationalError:
            with self._connection() as connection:
                return work(connection)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        with (
            self._turns,
            psycopg.connect(
                self._url, autocommit=True, row_factory=dict_row, connect_timeout=3
            ) as connection,
        ):
            yield connection


def open_store(database_url: str) -> TaskStore:
    return TaskStore(database_url)
