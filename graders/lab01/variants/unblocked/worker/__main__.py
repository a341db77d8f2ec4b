"""A worker that blocks without an end, and is unblocked by itself."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from .config import Config, ConfigError, load_config
from .loop import work_on
from .queue import QUEUE, JobQueue

log = logging.getLogger("worker")
stop = threading.Event()
waiting: list[int] = []  # the id of the connection that waits


def connect(config: Config, **options: object) -> Redis:
    return Redis(config.redis_host, config.redis_port, retry=Retry(NoBackoff(), 0), **options)


def run(config: Config, results: JobQueue) -> None:
    # One connection only: the id that was asked for is that of the one that waits.
    client = connect(config, socket_timeout=None, single_connection_client=True)
    while not stop.is_set():
        try:
            waiting[:] = [client.client_id()]
            popped = client.brpop(QUEUE, timeout=0)
        except RedisError as error:
            log.warning("away: %s", error)
            client.close()
            stop.wait(0.5)
            continue
        finally:
            waiting.clear()
        if popped:
            work_on(popped[1], results)
    client.close()


def unblock(redis: Redis) -> None:
    """Unblock the other connection, if it is blocked. One that has got a job is not."""
    try:
        for number in list(waiting):
            redis.client_unblock(number)
    except RedisError as error:
        log.warning("away: %s", error)


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    try:
        config = load_config(os.environ)
        other = connect(config, socket_timeout=8)
        other.ping()
    except (ConfigError, RedisError) as error:
        sys.exit(f"cannot start with Redis at {os.environ.get('REDIS_HOST')}: {error}")
    thread = threading.Thread(target=run, args=(config, JobQueue(other, config.worker_id)))
    thread.start()
    stop.wait()
    while thread.is_alive():
        unblock(other)  # again, since it may have been about to ask
        time.sleep(0.05)
    other.close()


if __name__ == "__main__":
    main()
