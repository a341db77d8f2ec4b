"""The kit's own small API for lab 03: what a client needs to put a task in and to look at it.

It keeps to lab 02's contract as far as it goes (POST /tasks, GET /tasks/{id}, GET /health). It is
here so that a worker can be tried from end to end where lab 02 was not done. Standard library and
psycopg only: it has to start quickly.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
from psycopg.rows import dict_row

INSERT = """
    INSERT INTO tasks (title, description, type, priority) VALUES (%s, %s, %s, %s) RETURNING *
"""
SELECT = "SELECT * FROM tasks WHERE id = %s"
UUID = re.compile(r"/tasks/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other on a connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """GET /health, GET /tasks/{id}."""
        if self.path == "/health":
            self._ask("SELECT 1", [])
        elif found := UUID.fullmatch(self.path):
            self._ask(SELECT, [found[1]])
        else:
            self._answer(404, error="there is no such route")

    def do_POST(self) -> None:
        """POST /tasks."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            task = json.loads(body)
            title = task["title"]
        except (ValueError, TypeError, KeyError):
            self._answer(422, error="the body is no JSON object with a title")
            return
        if self.path != "/tasks":
            self._answer(404, error="there is no such route")
            return
        values = [title, task.get("description"), task.get("type", "generic"),
                  task.get("priority", 0)]
        self._ask(INSERT, values, status=201)

    def _ask(self, query: str, values: list[Any], status: int = 200) -> None:
        try:
            # A connection for each request: this API lives for seconds.
            with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True,
                                 row_factory=dict_row, connect_timeout=60) as connection:
                row = connection.execute(query, values).fetchone()
        except psycopg.OperationalError as error:
            self._answer(503, error=" ".join(str(error).split()))
            return
        except psycopg.DataError as error:
            self._answer(422, error=" ".join(str(error).split()))
            return
        if row is None:
            self._answer(404, error="there is no such task")
        else:
            self._answer(status, data=row)

    def _answer(self, status: int, data: Any = None, error: str | None = None) -> None:
        told = {"data": data, "error": {"message": error} if error else None}
        body = json.dumps(told, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log line: what was asked stands in the history."""


def main() -> None:
    """Serve until SIGTERM."""
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
