"""The tasks table as a queue: connect, claim a task, record how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

log = logging.getLogger(__name__)

Task = Mapping[str, Any]  # id, title, description, type, priority

RECONNECT_PAUSE = 0.5  # seconds between two tries, however long the poll interval is

RECOVER = """
    UPDATE tasks SET status = 'pending', assigned_worker = NULL, updated_at = now()
    WHERE id IN (
        SELECT id FROM tasks
        WHERE status = 'processing' AND updated_at < now() - make_interval(secs => %s)
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id, title
"""
CLAIM = """
    UPDATE tasks SET status = 'processing', assigned_worker = %s, updated_at = now()
    WHERE id = (
        SELECT id FROM tasks
        WHERE status = 'pending'
        ORDER BY created_at
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id, title, description, type, priority
"""
RECORD = """
    UPDATE tasks SET status = %s, updated_at = now()
    WHERE id = %s AND status = 'processing' AND assigned_worker = %s
"""


class ConnectError(Exception):
    """PostgreSQL cannot be used. The text names the host, and never shows a password."""


def connect(database_url: str) -> ConnectionPool:
    """Verify that PostgreSQL can be used, and open a pool of connections to it."""
    try:
        options = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:  # its text would show the URL, password and all
        raise ConnectError("DATABASE_URL is not a PostgreSQL connection URL") from None
    host, port = str(options.get("host", "localhost")), str(options.get("port", 5432))
    if "@" in host or not port.isdigit():  # part of a password may have been read as either
        raise ConnectError("DATABASE_URL is malformed; in a password, write @ as %40 and / as %2F")

    settings = {"autocommit": True, "row_factory": dict_row, "connect_timeout": 10}
    try:
        # A pool keeps trying in the background; a single connection tells at once what is wrong.
        psycopg.connect(database_url, **settings).close()
    except psycopg.Error as error:
        message = f"cannot connect to PostgreSQL at {host}, port {port}: {one_line(error)}"
        raise ConnectError(message) from None
    return ConnectionPool(
        database_url,
        kwargs=settings,
        min_size=1,  # the loop does one thing at a time,
        max_size=1,  # so one connection is all it needs
        num_workers=1,
        # A lost connection is replaced by tries with growing pauses, here for 5 s. Who waits longer
        # than that, and then asks anew, starts anew with short pauses.
        reconnect_timeout=5,
        timeout=6,
        open=True,
    )


@dataclass(frozen=True)
class TaskQueue:
    """The queue as one worker sees it."""

    pool: ConnectionPool
    worker_id: str
    stuck_after: float  # seconds

    def claim(self) -> Task | None:
        """Make the oldest pending task ours; None if there is none.

        Raises psycopg.OperationalError when the connection is lost. The claim is then undone, or
        it was committed unheard and the task will be recovered once it is stuck.
        """
        with self.pool.connection() as connection:
            with connection.pipeline(), connection.transaction():
                recovered = connection.execute(RECOVER, [self.stuck_after])
                claimed = connection.execute(CLAIM, [self.worker_id])
            # Read only here, where COMMIT has been answered: before, the claim may still be undone.
            for stuck in recovered:
                log.warning("Recovered task %(id)s %(title)r: its worker seems to be gone", stuck)
            return claimed.fetchone()

    def record(self, task: Task, status: str) -> None:
        """Record `completed` or `failed`, and keep trying while PostgreSQL is away.

        The work is done and must not be done again only because its result could not be written.
        """
        while True:
            try:
                # The end of the pipeline waits for the answer, and the statement is committed then.
                with self.pool.connection() as connection, connection.pipeline():
                    done = connection.execute(RECORD, [status, task["id"], self.worker_id])
                break
            except psycopg.OperationalError as error:
                log.warning("Task %s is not recorded yet: %s", task["id"], one_line(error))
                time.sleep(RECONNECT_PAUSE)
        if done.rowcount == 0:
            log.warning("Task %s was already recorded, or taken from us as stuck", task["id"])


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())
