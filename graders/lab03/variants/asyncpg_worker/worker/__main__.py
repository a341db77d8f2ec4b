"""A worker on asyncio and asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from work import WorkFailed, perform

from .config import Config, ConfigError, load_config

RECOVER = """
    UPDATE tasks SET status = 'pending', assigned_worker = NULL, updated_at = now()
    WHERE status = 'processing' AND updated_at < now() - make_interval(secs => $1)
    RETURNING id
"""
SELECT_OLDEST = """
    SELECT id, title, description, type, priority FROM tasks WHERE status = 'pending'
    ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
CLAIM = """
    UPDATE tasks SET status = 'processing', assigned_worker = $1, updated_at = now() WHERE id = $2
"""
RECORD = """
    UPDATE tasks SET status = $1, updated_at = now()
    WHERE id = $2 AND assigned_worker = $3 AND status = 'processing'
"""
LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError,
        asyncpg.OperatorInterventionError)

log = logging.getLogger("worker")


async def claim(pool: asyncpg.Pool, config: Config) -> Mapping[str, Any] | None:
    async with pool.acquire() as connection:
        for row in await connection.fetch(RECOVER, config.stuck_after):
            log.warning("recovered task %s", row["id"])
        async with connection.transaction():
            task = await connection.fetchrow(SELECT_OLDEST)
            if task:
                await connection.execute(CLAIM, config.worker_id, task["id"])
    return task


def work(task: Mapping[str, Any]) -> None:
    match task["type"]:
        case "generic":
            perform(task)
        case "email":
            log.info("task %s is an email", task["id"])
            perform(task)
        case other:
            raise WorkFailed(f"unknown type {other}")


async def work_on(pool: asyncpg.Pool, config: Config, task: Mapping[str, Any]) -> None:
    log.info("claimed task %s %s", task["id"], task["title"])
    started = time.monotonic()
    try:
        await asyncio.to_thread(work, task)
        status = "completed"
    except WorkFailed as error:
        log.error("task %s: %s", task["id"], error)
        status = "failed"
    while True:
        try:
            await pool.execute(RECORD, status, task["id"], config.worker_id)
            break
        except LOST as error:
            log.warning("task %s is not recorded yet: %s", task["id"], error)
            await asyncio.sleep(0.5)
    log.info("task %s %s after %.2f s", task["id"], status, time.monotonic() - started)


async def wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # its pool logs tracebacks
    stop = asyncio.Event()

    def request_stop() -> None:
        stop.set()
        log.info("stopping")

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, request_stop)
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(str(error))
    try:
        host = urlsplit(config.database_url).hostname
        pool = await asyncpg.create_pool(config.database_url, min_size=1, max_size=2, timeout=10)
    except (ValueError, asyncpg.InterfaceError):
        sys.exit("DATABASE_URL is malformed")
    except (OSError, asyncpg.PostgresError):
        sys.exit(f"cannot connect to PostgreSQL at {host}")
    log.info("worker %s started, polling every %g s", config.worker_id, config.poll_interval)
    while not stop.is_set():
        try:
            task = await claim(pool, config)
        except LOST as error:
            log.warning("the poll failed: %s", error)
            await wait(stop, 0.5)
            continue
        if task:
            await work_on(pool, config, task)
        else:
            log.info("no pending task")
            await wait(stop, config.poll_interval)
    await pool.close()
    log.info("stopped")


if __name__ == "__main__":
    asyncio.run(main())
