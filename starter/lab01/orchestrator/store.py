"""Everything the orchestrator says to Redis: add a task with its jobs, and find it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis

QUEUE = "work_queue"


def connect(host: str, port: int) -> Redis:
    """A client that connects when it is first used, and anew after an error."""
    # TODO 3: how long may Redis take, and what is sent again by whom?
    return Redis(host, port, decode_responses=True)


@dataclass(frozen=True)
class TaskStore:
    """The tasks in Redis. Every method raises redis.RedisError when Redis cannot be used."""

    redis: Redis

    def add(self, description: str, priority: int) -> dict[str, Any]:
        """Store a new task and queue its four jobs: all of it or nothing."""
        raise NotImplementedError("TODO 5 is open: store a task (orchestrator/store.py)")

    def find(self, task_id: str) -> dict[str, Any] | None:
        """A task and how many of its results are there; None if there is no such task."""
        raise NotImplementedError("TODO 6 is open: find a task (orchestrator/store.py)")

    def ping(self) -> None:
        """Make sure that Redis answers."""
        raise NotImplementedError("TODO 2 is open: ask Redis for an answer (orchestrator/store.py)")
