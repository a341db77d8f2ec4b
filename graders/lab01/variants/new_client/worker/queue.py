"""Redis, by a client that is replaced after each error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

Job = dict[str, Any]

QUEUE = "work_queue"
BLOCK = 0.2  # seconds
RETRY_PAUSE = 0  # the loop need not wait: we have done so
FIRST_PAUSE, LONGEST_PAUSE, TRIES = 0.1, 2.0, 60
FIELDS = {"task_id": str, "subtask_id": str, "description": str, "priority": int}


class ConnectError(Exception):
    """Redis cannot be used. The text names host and port."""


def make(host: str, port: int) -> Redis:
    return Redis(host, port, socket_timeout=6, retry=Retry(NoBackoff(), 0))


class Clients:
    """The client of the moment."""

    def __init__(self, host: str, port: int) -> None:
        self.place = host, port
        self.redis = make(host, port)

    def do(self, what: Callable[[Redis], Any]) -> Any:
        """Do it with one client after the other, until it succeeds."""
        pause = FIRST_PAUSE
        for _ in range(TRIES):
            try:
                return what(self.redis)
            except RedisError as error:
                log.warning("a new client, since %s", error)
                self.redis.close()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self.redis = make(*self.place)
        sys.exit("Redis is away for good")

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()


def connect(host: str, port: int) -> Clients:
    clients = Clients(host, port)
    try:
        clients.redis.ping()
    except RedisError as error:
        raise ConnectError(f"{host}:{port}: {error}") from None
    return clients


def parse(entry: bytes) -> Job:
    job = json.loads(str(entry, "utf-8"))
    if not isinstance(job, dict) or any(type(job.get(k)) is not FIELDS[k] for k in FIELDS):
        raise ValueError("it is no job")
    return job


class JobQueue:
    """The queue as one worker sees it."""

    def __init__(self, clients: Clients, worker_id: str) -> None:
        self.clients = clients
        self.worker_id = worker_id
        self.again = False

    def take(self) -> bytes | None:
        # What BRPOP has lost is lost; so after an error it is asked for another one.
        popped = self.clients.do(lambda redis: redis.brpop(QUEUE, BLOCK))
        return popped and popped[1]

    def put_aside(self, entry: bytes) -> None:
        self.clients.do(lambda redis: redis.lpush(f"{QUEUE}:malformed", entry))

    def store(self, job: Job, status: str) -> None:
        result = {k: job[k] for k in ("subtask_id", "task_id", "description")} | {
            "status": status, "worker_id": self.worker_id,
            "completed_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        key = f"result:{job['subtask_id']}"
        self.clients.do(lambda redis: redis.setex(key, 86400, json.dumps(result)))
