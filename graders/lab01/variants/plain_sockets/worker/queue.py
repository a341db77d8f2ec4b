"""Redis by a plain socket."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis import RedisError  # the class only: the loop expects it

log = logging.getLogger(__name__)

Job = dict[str, Any]
Reply = bytes | int | list[Any] | None

QUEUE = "work_queue"
RETRY_PAUSE = 0.25
FIELDS = {"task_id": str, "subtask_id": str, "description": str, "priority": int}


class ConnectError(Exception):
    """Redis cannot be used. The text names host and port."""


class Connection:
    """One connection to Redis. Whatever goes wrong is a RedisError, and closes it."""

    def __init__(self, host: str, port: int) -> None:
        self.place = host, port
        self.file: Any = None

    def ask(self, *words: str | bytes) -> Reply:
        """The reply to one command."""
        try:
            if self.file is None:
                with socket.create_connection(self.place, timeout=10) as connected:
                    self.file = connected.makefile("rwb")
            raw = [word if isinstance(word, bytes) else word.encode() for word in words]
            self.file.write(b"*%d\r\n" % len(raw))
            self.file.write(b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in raw))
            self.file.flush()
            return self.read()
        except (OSError, EOFError) as error:
            self.close()
            raise RedisError(str(error) or "the connection broke off") from None

    def read(self) -> Reply:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise EOFError(rest.decode())
        if kind == b"+":
            return rest
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self.read() for _ in range(number)]
        text = self.file.read(number + 2)
        if len(text) < number + 2:
            raise EOFError
        return text[:-2]

    def close(self) -> None:
        if self.file is not None:
            try:
                self.file.close()
            except OSError:
                log.debug("it was closed already")
            self.file = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(host: str, port: int) -> Connection:
    connection = Connection(host, port)
    try:
        connection.ask("PING")
    except RedisError as error:
        raise ConnectError(f"Redis at {host}:{port} does not answer: {error}") from None
    return connection


def parse(entry: bytes) -> Job:
    job = json.loads(entry.decode("utf-8", "strict"))
    if type(job) is not dict:
        raise ValueError("no object")
    for name, kind in FIELDS.items():
        if type(job.get(name, ...)) is not kind:
            raise ValueError(name)
    return job


class JobQueue:
    """The queue as one worker sees it."""

    def __init__(self, connection: Connection, worker_id: str) -> None:
        self.waiting = connection
        self.worker_id = worker_id

    def take(self) -> bytes | None:
        popped = self.waiting.ask("BRPOP", QUEUE, "1")
        return popped[1] if popped else None

    def put_aside(self, entry: bytes) -> None:
        self.write(lambda connection: connection.ask("LPUSH", "work_queue:malformed", entry))

    def store(self, job: Job, status: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        told = json.dumps({"worker_id": self.worker_id, "status": status, "completed_at": now,
                           "subtask_id": job["subtask_id"], "task_id": job["task_id"],
                           "description": job["description"]}, indent=1)  # fmt: skip
        key = f"result:{job['subtask_id']}"

        def both(connection: Connection) -> None:
            connection.ask("SET", key, told)
            connection.ask("EXPIRE", key, "86400")

        self.write(both)

    def write(self, what: Callable[[Connection], Any]) -> None:
        while True:
            try:
                with Connection(*self.waiting.place) as connection:
                    what(connection)
                return
            except RedisError as error:
                log.warning("once more: %s", error)
                time.sleep(RETRY_PAUSE)
