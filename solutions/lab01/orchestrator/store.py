"""Everything the orchestrator says to Redis: add a task with its jobs, and find it again."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .splitting import split

QUEUE = "work_queue"


def connect(host: str, port: int) -> Redis:
    """A client that connects when it is first used, and anew after an error."""
    return Redis(
        host,
        port,
        decode_responses=True,
        socket_connect_timeout=5,
        socket_timeout=5,
        # By default a command whose answer is lost is sent again, and a task would be queued twice.
        retry=Retry(NoBackoff(), 0),
    )


@dataclass(frozen=True)
class TaskStore:
    """The tasks in Redis. Every method raises redis.RedisError when Redis cannot be used."""

    redis: Redis

    def add(self, description: str, priority: int) -> dict[str, Any]:
        """Store a new task and queue its four jobs: all of it or nothing."""
        task_id = str(uuid.uuid4())
        subtasks = [
            {"subtask_id": f"{task_id}-{number}", "description": part}
            for number, part in enumerate(split(description))
        ]
        task = {
            "task_id": task_id,
            "description": description,
            "priority": priority,
            "status": "queued",
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "subtasks": json.dumps([subtask["subtask_id"] for subtask in subtasks]),
        }
        jobs = [
            json.dumps({"task_id": task_id, **subtask, "priority": priority})
            for subtask in subtasks
        ]
        with self.redis.pipeline() as transaction:  # MULTI, sent as one with EXEC
            transaction.hset(f"task:{task_id}", mapping=task)
            transaction.lpush(QUEUE, *jobs)  # one after the other: the first is popped first
            transaction.execute()
        return {
            "task_id": task_id,
            "status": task["status"],
            "created_at": task["created_at"],
            "subtasks": subtasks,
        }

    def find(self, task_id: str) -> dict[str, Any] | None:
        """A task and how many of its results are there; None if there is no such task."""
        task: dict[str, Any] = self.redis.hgetall(f"task:{task_id}")
        if not task:
            return None
        ids = json.loads(task["subtasks"])
        results = self.redis.exists(*[f"result:{each}" for each in ids])
        return task | {
            "priority": int(task["priority"]),
            "status": "completed" if results == len(ids) else task["status"],
            "subtasks": [
                {"subtask_id": each, "description": part}
                for each, part in zip(ids, split(task["description"]), strict=True)
            ],
            "results": results,
        }

    def ping(self) -> None:
        """Make sure that Redis answers."""
        self.redis.ping()
