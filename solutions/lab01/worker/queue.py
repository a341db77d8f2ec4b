"""Redis as the worker sees it: connect, take a job, store how it ended."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

Job = Mapping[str, Any]  # task_id, subtask_id, description, priority

QUEUE = "work_queue"
MALFORMED = "work_queue:malformed"

BLOCK = 1  # seconds that BRPOP waits for a job; an idle worker notices a stop after it
KEPT = 24 * 60 * 60  # seconds that a result is kept
RETRY_PAUSE = 0.5  # seconds between two tries while Redis is away

FIELDS = {"task_id": str, "subtask_id": str, "description": str, "priority": int}


class ConnectError(Exception):
    """Redis cannot be used. The text names host and port."""


def connect(host: str, port: int) -> Redis:
    """A client for one worker, after Redis has answered a PING."""
    redis = Redis(
        host,
        port,
        socket_connect_timeout=5,
        socket_timeout=8,  # well above BLOCK: a BRPOP that only waits must not look like a failure
        health_check_interval=0,
        # By default a BRPOP whose answer is lost is sent again, silently, and the job with it.
        retry=Retry(NoBackoff(), 0),
    )
    try:
        redis.ping()
    except (RedisError, UnicodeError) as error:  # UnicodeError: of a host that can be none
        raise ConnectError(f"cannot use Redis at {host}, port {port}: {error}") from None
    return redis


def parse(entry: bytes) -> Job:
    """The job that an entry of the queue holds. Raises ValueError, which says what is wrong."""
    try:
        job = json.loads(entry.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(job, dict):
        raise ValueError("it is no JSON object")
    for name, kind in FIELDS.items():
        if type(job.get(name)) is not kind:  # isinstance would take true for an int
            raise ValueError(f"{name} is missing or no {kind.__name__}")
    job["subtask_id"].encode()  # it will be part of a key, and JSON can hold what UTF-8 cannot
    return job


@dataclass(frozen=True)
class JobQueue:
    """The queue as one worker sees it."""

    redis: Redis
    worker_id: str

    def take(self) -> bytes | None:
        """Pop the oldest entry, or None if there was none for BLOCK seconds.

        Raises RedisError. A job whose answer got lost is lost with it: Redis has popped it.
        """
        popped = self.redis.brpop(QUEUE, timeout=BLOCK)
        return popped[1] if popped else None

    def put_aside(self, entry: bytes) -> None:
        """Keep an entry that is no job, as it came, for somebody to look at."""
        self._insist(lambda: self.redis.lpush(MALFORMED, entry))

    def store(self, job: Job, status: str) -> None:
        """Store the result of a job, `completed` or `failed`."""
        result = {
            "subtask_id": job["subtask_id"],
            "task_id": job["task_id"],
            "status": status,
            "worker_id": self.worker_id,
            "completed_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "description": job["description"],
        }
        key = f"result:{job['subtask_id']}"
        self._insist(lambda: self.redis.set(key, json.dumps(result), ex=KEPT))

    def _insist(self, write: Callable[[], Any]) -> None:
        # What was popped is in our hands only, so we try until Redis has it. If the answer got lost
        # it is written twice, which does no harm.
        while True:
            try:
                write()
                return
            except RedisError as error:
                log.warning("Not stored yet, trying again: %s", error)
                time.sleep(RETRY_PAUSE)
