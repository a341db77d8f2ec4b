"""Redis as the worker sees it: connect, take a job, store how it ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

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
    # TODO 15: raise ConnectError when Redis does not answer.
    # TODO 16: how long may Redis take, and what is sent again by whom?
    return Redis(host, port)


def parse(entry: bytes) -> Job:
    """The job that an entry of the queue holds. Raises ValueError, which says what is wrong."""
    return json.loads(entry)  # TODO 18: what if it is no job?


@dataclass(frozen=True)
class JobQueue:
    """The queue as one worker sees it."""

    redis: Redis
    worker_id: str

    def take(self) -> bytes | None:
        """Pop the oldest entry, or None if there was none for BLOCK seconds."""
        raise NotImplementedError("TODO 12 is open: take the oldest job (worker/queue.py)")

    def put_aside(self, entry: bytes) -> None:
        """Keep an entry that is no job, as it came, for somebody to look at."""
        raise NotImplementedError("TODO 18 is open: put a malformed job aside (worker/queue.py)")

    def store(self, job: Job, status: str) -> None:
        """Store the result of a job, `completed` or `failed`."""
        raise NotImplementedError("TODO 14 is open: store how the job ended (worker/queue.py)")

    def _insist(self, write: Callable[[], Any]) -> None:
        write()  # TODO 19: try again until Redis has it
