"""A worker that asks now and then."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from work import perform

from .config import ConfigError, load_config
from .queue import parse

stop = threading.Event()


def say(*words: object) -> None:
    print(*words, flush=True)


def again(what: Callable[[], Any]) -> Any:
    """Until it succeeds."""
    while True:
        try:
            return what()
        except redis.RedisError as error:
            say("Redis:", error)
            time.sleep(0.2)


def work(client: redis.Redis, name: str) -> None:
    while not stop.is_set():
        try:
            raw = client.rpop("work_queue")
        except redis.RedisError as error:
            say("Redis:", error)
            raw = None
        if raw is None:
            stop.wait(0.2)
            continue
        try:
            job = parse(raw)
        except Exception as error:
            say("malformed:", error)
            again(lambda entry=raw: client.lpush("work_queue:malformed", entry))
            continue
        say("begin", job["subtask_id"], job["description"])
        result = {"subtask_id": job["subtask_id"], "task_id": job["task_id"],
                  "description": job["description"], "worker_id": name}  # fmt: skip
        try:
            perform(job)
            result["status"] = "completed"
        except Exception as error:
            result |= {"status": "failed", "error": str(error)}
        result["completed_at"] = str(datetime.now(UTC))  # with a blank where others have a T
        key, text = f"result:{job['subtask_id']}", json.dumps(result)
        again(lambda k=key, t=text: client.set(k, t, exat=int(time.time()) + 86400))
        say("end", job["subtask_id"], result["status"])


def main() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    try:
        config = load_config(os.environ)
        client = redis.Redis(config.redis_host, config.redis_port, protocol=2, socket_timeout=30,
                             retry=Retry(NoBackoff(), 0))  # fmt: skip
        client.ping()
    except (ConfigError, redis.RedisError) as error:
        say("cannot start:", error)
        sys.exit(3)
    thread = threading.Thread(target=work, args=(client, config.worker_id))
    thread.start()
    thread.join()
    client.close()


if __name__ == "__main__":
    main()
