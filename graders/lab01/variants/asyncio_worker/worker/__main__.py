"""A worker on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from work import WorkFailed, perform

from .config import Config, ConfigError, load_config
from .queue import KEPT, MALFORMED, QUEUE, Job, parse

log = logging.getLogger("worker")


async def insist(write: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            await write()
            return
        except RedisError as error:
            log.warning("not stored yet: %s", error)
            await asyncio.sleep(0.3)


async def store(redis: Redis, config: Config, job: Job, status: str) -> None:
    result = {
        "status": status,
        "worker_id": config.worker_id,
        "completed_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **{name: job[name] for name in ("description", "task_id", "subtask_id", "priority")},
    }
    async with redis.pipeline(transaction=True) as transaction:
        transaction.set(f"result:{job['subtask_id']}", json.dumps(result, ensure_ascii=False))
        transaction.expire(f"result:{job['subtask_id']}", KEPT)
        await transaction.execute()


async def work_on(redis: Redis, config: Config, entry: bytes) -> None:
    try:
        job = parse(entry)
    except ValueError as error:
        log.error("no job, put aside: %s", error)
        await insist(lambda: redis.rpush(MALFORMED, entry))
        return
    log.info("took %s %s", job["subtask_id"], job["description"])
    status = "completed"
    try:
        await asyncio.to_thread(perform, job)  # the loop stays free to hear a signal
    except WorkFailed as error:
        log.error("%s: %s", job["subtask_id"], error)
        status = "failed"
    await insist(lambda: store(redis, config, job, status))
    log.info("%s %s", job["subtask_id"], status)


async def run(config: Config) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    redis = Redis(
        host=config.redis_host, port=config.redis_port, socket_timeout=10,
        socket_connect_timeout=10, retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    async with redis:
        try:
            await redis.ping()
        except RedisError as error:
            sys.exit(f"no Redis at {config.redis_host}:{config.redis_port}: {error}")
        while not stop.is_set():
            try:
                popped = await redis.brpop([QUEUE], timeout=1)
            except RedisError as error:
                log.warning("Redis is away: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.3)
                continue
            if popped:
                await work_on(redis, config, popped[1])
    log.info("stopped")


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(str(error))
    asyncio.run(run(config))


if __name__ == "__main__":
    main()
