"""Redis, with a list for what is in the worker's hands."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

log = logging.getLogger(__name__)

Job = dict[str, Any]

QUEUE = "work_queue"
RETRY_PAUSE = 0.5
FIELDS = {"task_id": str, "subtask_id": str, "description": str, "priority": int}


class ConnectError(Exception):
    """Redis cannot be used. The text names host and port."""


def connect(host: str, port: int) -> Redis:
    redis = Redis(host, port, socket_timeout=7, retry=Retry(NoBackoff(), 0))
    try:
        redis.ping()
    except RedisError as error:
        raise ConnectError(f"no Redis at {host}:{port} ({error})") from None
    return redis


def parse(entry: bytes) -> Job:
    job = json.loads(entry.decode())
    if not isinstance(job, dict):
        raise ValueError("no object")
    for name, kind in FIELDS.items():
        if type(job.get(name)) is not kind:
            raise ValueError(f"{name} is missing or no {kind.__name__}")
    return job


class JobQueue:
    """The queue as one worker sees it."""

    def __init__(self, redis: Redis, worker_id: str) -> None:
        self.redis = redis
        self.worker_id = worker_id
        self.mine = f"{QUEUE}:processing:{worker_id}"
        self.entry = b""

    def take(self) -> bytes | None:
        entry = self.redis.blmove(QUEUE, self.mine, 1, "RIGHT", "LEFT")
        self.entry = entry or b""
        return entry

    def put_aside(self, entry: bytes) -> None:
        self._let_go(lambda then: then.lpush(f"{QUEUE}:malformed", entry))

    def store(self, job: Job, status: str) -> None:
        key = f"result:{job['subtask_id']}"
        result = json.dumps({
            "subtask_id": job["subtask_id"], "task_id": job["task_id"], "status": status,
            "worker_id": self.worker_id, "description": job["description"],
            "completed_at": f"{datetime.now(UTC).replace(tzinfo=None).isoformat()}Z",
        })  # fmt: skip
        self._let_go(lambda then: then.set(key, result, px=86_400_000))

    def _let_go(self, write: Callable[[Pipeline], Any]) -> None:
        """Write something, and take the entry out of the list, in one transaction."""
        while True:
            try:
                with self.redis.pipeline() as transaction:
                    write(transaction)
                    transaction.lrem(self.mine, 1, self.entry)
                    transaction.execute()
                return
            except RedisError as error:
                log.warning("Not stored yet: %s", error)
                time.sleep(RETRY_PAUSE)
