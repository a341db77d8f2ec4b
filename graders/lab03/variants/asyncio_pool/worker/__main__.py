"""A worker on asyncio, with psycopg's pool of asynchronous connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from work import WorkFailed

from .config import Config, ConfigError, load_config
from .queue import CLAIM, RECORD, RECOVER, SELECT_OLDEST, Task
from .tasks import handle

log = logging.getLogger("worker")


async def claim(pool: AsyncConnectionPool, config: Config) -> Task | None:
    async with pool.connection() as connection:  # one transaction, committed at its end
        recovered = await connection.execute(RECOVER, [config.stuck_after])
        async for row in recovered:
            log.warning("recovered task %s", row["id"])
        task = await (await connection.execute(SELECT_OLDEST)).fetchone()
        if task:
            await connection.execute(CLAIM, [config.worker_id, task["id"]])
    return task


async def record(pool: AsyncConnectionPool, config: Config, task: Task, status: str) -> None:
    while True:
        try:
            async with pool.connection() as connection:
                await connection.execute(RECORD, [status, task["id"], config.worker_id])
            return
        except psycopg.OperationalError as error:
            log.warning("task %s is not recorded yet: %s", task["id"], error)
            await asyncio.sleep(0.5)


async def wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def work_on(pool: AsyncConnectionPool, config: Config, task: Task) -> None:
    log.info("claimed task %s %s", task["id"], task["title"])
    started = time.monotonic()
    try:
        await asyncio.to_thread(handle, task)  # the loop stays free to hear a signal
        status = "completed"
    except WorkFailed as error:
        log.error("task %s: %s", task["id"], error)
        status = "failed"
    await record(pool, config, task, status)
    log.info("task %s %s after %.2f s", task["id"], status, time.monotonic() - started)


async def run(config: Config) -> None:
    stop = asyncio.Event()

    def request_stop() -> None:
        stop.set()
        log.info("stopping")

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, request_stop)
    pool = AsyncConnectionPool(
        config.database_url, kwargs={"row_factory": dict_row}, min_size=1, max_size=3, open=False,
        check=AsyncConnectionPool.check_connection, reconnect_timeout=5, timeout=6,
    )
    async with pool:
        log.info("worker %s started, polling every %g s", config.worker_id, config.poll_interval)
        while not stop.is_set():
            try:
                task = await claim(pool, config)
            except psycopg.OperationalError as error:
                log.warning("the poll failed: %s", error)
                await wait(stop, 0.5)
                continue
            if task:
                await work_on(pool, config, task)
            else:
                log.info("no pending task")
                await wait(stop, config.poll_interval)
    log.info("stopped")


async def verify(url: str) -> None:
    try:
        host = conninfo_to_dict(url).get("host", "localhost")
    except psycopg.ProgrammingError:
        sys.exit("DATABASE_URL is malformed")
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=10)
        await connection.close()
    except psycopg.Error:
        sys.exit(f"cannot connect to PostgreSQL at {host}: see DATABASE_URL")


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("worker.tasks").setLevel(logging.INFO)
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(str(error))
    await verify(config.database_url)
    await run(config)


if __name__ == "__main__":
    asyncio.run(main())
