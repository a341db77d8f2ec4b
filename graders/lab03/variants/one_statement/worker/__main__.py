"""A worker with one plain connection and one statement for each step."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import time

import psycopg
from psycopg.rows import dict_row
from work import WorkFailed, perform

from .config import ConfigError, load_config

CLAIM = """
    UPDATE tasks SET status = 'processing', assigned_worker = %s, updated_at = now()
    WHERE id = (
        SELECT id FROM tasks WHERE status = 'pending'
        ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, title, description, type, priority
"""
RECOVER = """
    UPDATE tasks SET status = 'pending', assigned_worker = NULL, updated_at = now()
    WHERE status = 'processing' AND updated_at < now() - %s * interval '1 second'
    RETURNING id
"""
RECORD = """
    UPDATE tasks SET status = %s, updated_at = now()
    WHERE id = %s AND status = 'processing' AND assigned_worker = %s
"""
TYPES = ("generic", "email")

signals: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put() is safe in a signal handler
log = logging.getLogger("worker")


class Database:
    """A connection that is opened again after it was lost."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = self.connect()

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            self.url, autocommit=True, row_factory=dict_row, connect_timeout=10
        )

    def execute(self, statement: str, *values: object) -> psycopg.Cursor:
        if self.connection.closed:
            self.connection = self.connect()
        return self.connection.execute(statement, values)


def request_stop(signum: int, _frame: object) -> None:
    signals.put(signum)
    signal.signal(signum, signal.SIG_DFL)


def wait(seconds: float) -> None:
    """Wait, but not longer than until a signal has come."""
    with contextlib.suppress(queue.Empty):
        signals.put(signals.get(timeout=seconds))


def work(task: dict) -> str:
    log.info("claimed %s (%s)", task["id"], task["title"])
    try:
        if task["type"] not in TYPES:
            raise WorkFailed(f"unknown type {task['type']}")
        if task["type"] == "email":
            log.info("email %s is being sent", task["id"])
        perform(task)
    except WorkFailed as error:
        log.error("task %s failed: %s", task["id"], error)
        return "failed"
    return "completed"


def record(database: Database, *values: object) -> None:
    while True:
        try:
            database.execute(RECORD, *values)
            return
        except psycopg.OperationalError as error:
            log.warning("could not record, trying again: %s", error)
            time.sleep(0.3)


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s: %(message)s")
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, request_stop)
    try:
        config = load_config(os.environ)
        host = psycopg.conninfo.conninfo_to_dict(config.database_url).get("host")
    except (ConfigError, psycopg.ProgrammingError) as error:
        sys.exit(str(error) if isinstance(error, ConfigError) else "DATABASE_URL is malformed")
    try:
        database = Database(config.database_url)
    except psycopg.Error:
        sys.exit(f"PostgreSQL at {host} cannot be used: see DATABASE_URL")
    log.info("started, polling every %g seconds", config.poll_interval)
    while signals.empty():
        try:
            recovered = database.execute(RECOVER, config.stuck_after).fetchall()
            task = database.execute(CLAIM, config.worker_id).fetchone()
        except psycopg.OperationalError as error:
            log.warning("poll failed: %s", error)
            wait(0.5)
            continue
        for row in recovered:
            log.warning("recovered %s", row["id"])
        if task is None:
            log.info("nothing to do")
            wait(config.poll_interval)
            continue
        started = time.monotonic()
        status = work(task)
        record(database, status, task["id"], config.worker_id)
        log.info("task %s %s in %.3f s", task["id"], status, time.monotonic() - started)
    log.info("shutting down")
    database.connection.close()
    log.info("shutdown complete")


if __name__ == "__main__":
    main()
