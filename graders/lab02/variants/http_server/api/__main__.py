"""The API by http.server, with psycopg's pool: `python -m api`."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import uuid
from datetime import UTC
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from .config import ConfigError, load_config
from .document import DOCUMENT

STATUSES = ("pending", "processing", "completed", "failed")
MISSING = object()


class Problem(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def text(value, name, most, blank=False):
    if not isinstance(value, str):
        raise Problem(400, f"{name} must be a text")
    if len(value) > most or "\0" in value or not (blank or value.strip()):
        raise Problem(400, f"{name} must have 1 to {most} characters, and no NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Problem(400, f"{name} holds half a character") from None
    return value


def description(value):
    return None if value is None else text(value, "description", 10_000, blank=True)


def priority(value):
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 9:
        raise Problem(400, "priority must be a whole number from 0 to 9")
    return value


def status(value):
    if value not in STATUSES:
        raise Problem(400, f"status must be one of {', '.join(STATUSES)}")
    return value


FIELDS = {
    "title": lambda value: text(value, "title", 200),
    "description": description,
    "type": lambda value: text(value, "type", 50),
    "priority": priority,
    "status": status,
}


def fields(told, allowed):
    if not isinstance(told, dict):
        raise Problem(400, "the body must be a JSON object")
    for name in told:
        if name not in allowed:
            raise Problem(400, "the body has a field that is not known")
    return {name: FIELDS[name](value) for name, value in told.items()}


def number(query, name, default, most):
    given = query.get(name)
    if given is None:
        return default
    if not re.fullmatch("[0-9]{1,18}", given) or not 1 <= int(given) <= most:
        raise Problem(400, f"{name} must be a number from 1 to {most}")
    return int(given)


def shown(row):
    told = {**row, "id": str(row["id"])}
    for name in ("created_at", "updated_at"):
        moment = row[name].astimezone(UTC)
        told[name] = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
    return told


class Tasks:
    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool

    def create(self, told):
        task = {"description": None, "type": "generic", "priority": 0,
                **fields(told, {"title", "description", "type", "priority"})}
        if "title" not in task:
            raise Problem(400, "title is missing")
        with self.pool.connection() as connection:
            return 201, shown(connection.execute(
                "INSERT INTO tasks (title, description, type, priority) VALUES (%(title)s,"
                " %(description)s, %(type)s, %(priority)s) RETURNING *", task,
            ).fetchone())

    def list(self, query):
        wanted = status(query["status"]) if "status" in query else None
        page = number(query, "page", 1, 10**12)
        limit = number(query, "limit", 20, 100)
        where, values = ("WHERE status = %s", [wanted]) if wanted else ("", [])
        with self.pool.connection() as connection:
            total = connection.execute(f"SELECT count(*) AS n FROM tasks {where}", values)
            tasks = connection.execute(
                f"SELECT * FROM tasks {where} ORDER BY created_at DESC, id DESC"
                " LIMIT %s OFFSET %s", [*values, limit, (page - 1) * limit],
            )
            return 200, {"total": total.fetchone()["n"], "page": page, "limit": limit,
                         "tasks": [shown(row) for row in tasks], "more": "soon"}

    def show(self, id):
        with self.pool.connection() as connection:
            return 200, self._found(
                connection.execute("SELECT * FROM tasks WHERE id = %s", [id]).fetchone()
            )

    def change(self, id, told):
        changes = fields(told, {"title", "description", "priority", "status"})
        if not changes:
            raise Problem(400, "there is nothing to change")
        with self.pool.connection() as connection, connection.transaction():
            old = connection.execute(
                "SELECT * FROM tasks WHERE id = %s FOR UPDATE", [id]
            ).fetchone()
            self._found(old)
            if "status" in changes:
                if changes["status"] != "pending" or old["status"] != "failed":
                    raise Problem(409, "only a failed task goes back, and to pending")
                changes["assigned_worker"] = None
            sets = ", ".join(f"{name} = %({name})s" for name in changes)
            return 200, shown(connection.execute(
                f"UPDATE tasks SET {sets}, updated_at = now() WHERE id = %(id)s RETURNING *",
                {**changes, "id": id},
            ).fetchone())

    def delete(self, id):
        with self.pool.connection() as connection:
            return 200, self._found(
                connection.execute("DELETE FROM tasks WHERE id = %s RETURNING *", [id]).fetchone()
            )

    def health(self):
        with self.pool.connection() as connection:
            connection.execute("SELECT 1")
        return 200, {"database": "well"}

    def _found(self, row):
        if row is None:
            raise Problem(404, "there is no such task")
        return shown(row)


def route(tasks, method, target, body):
    """The status and the data for one request."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    match [unquote(part) for part in parts.path.strip("/").split("/")]:
        case ["health"] if method == "GET":
            return tasks.health()
        case ["tasks"] if method == "POST":
            return tasks.create(body())
        case ["tasks"] if method == "GET":
            return tasks.list(query)
        case ["tasks", id] if method in ("GET", "PUT", "DELETE"):
            try:
                id = uuid.UUID(id)
            except ValueError:
                raise Problem(404, "there is no such task") from None
            if method == "PUT":
                return tasks.change(id, body())
            return tasks.show(id) if method == "GET" else tasks.delete(id)
    raise Problem(404, "there is nothing here")


class Handler(BaseHTTPRequestHandler):
    tasks: Tasks

    def answer(self) -> None:
        if self.path == "/openapi.json":
            return self.send(200, DOCUMENT)
        try:
            status, data = route(self.tasks, self.command, self.path, self.body)
        except Problem as problem:
            return self.fail(problem.status, str(problem))
        except psycopg.OperationalError as error:
            self.log_message("%s", error)
            return self.fail(503, "the database is away")
        except Exception as error:
            self.log_message("%r", error)
            return self.fail(500, "something went wrong")
        return self.send(status, {"data": data, "error": None})

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer

    def body(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return json.loads(raw, parse_constant=self._no_number)
        except (ValueError, RecursionError):
            raise Problem(400, "the body is no JSON") from None

    def _no_number(self, name):
        raise ValueError(name)

    def fail(self, status: int, message: str) -> None:
        self.send(status, {"error": {"message": message, "status": status}, "data": None})

    def send(self, status: int, told) -> None:
        raw = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the requests in flight
    request_queue_size = 128


def main() -> None:
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"api: {error}")
    pool = ConnectionPool(
        config.database_url, min_size=0, max_size=8, timeout=4, reconnect_timeout=4, open=True,
        kwargs={"autocommit": True, "row_factory": dict_row, "connect_timeout": 3},
        check=ConnectionPool.check_connection,
    )
    Handler.tasks = Tasks(pool)
    server = Server((config.host, config.port), Handler)
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    signal.sigwait(signals)
    server.shutdown()
    server.server_close()
    pool.close()


if __name__ == "__main__":
    main()
