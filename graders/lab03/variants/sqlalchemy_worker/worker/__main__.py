"""The reference's loop, on a queue by SQLAlchemy."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from sqlalchemy import exc
from work import WorkFailed

from .config import Config, ConfigError, load_config
from .queue import ConnectError, Task, TaskQueue, connect
from .tasks import handle

log = logging.getLogger("worker")


def work_on(task: Task, queue: TaskQueue) -> None:
    log.info("Claimed task %s %s", task["id"], task["title"])
    started = time.monotonic()
    try:
        handle(task)
        status = "completed"
    except WorkFailed as error:
        log.error("Task %s: %s", task["id"], error)
        status = "failed"
    queue.record(task, status)
    log.info("Task %s %s after %.2f s", task["id"], status, time.monotonic() - started)


def loop(queue: TaskQueue, config: Config, stop: threading.Event) -> None:
    log.info("Worker %s started, polling every %g s", config.worker_id, config.poll_interval)
    while not stop.is_set():
        try:
            task = queue.claim()
        except exc.OperationalError as error:
            log.warning("The poll failed: %s", error.orig)
            stop.wait(0.5)
            continue
        if task:
            work_on(task, queue)
        else:
            log.info("No pending task")
            stop.wait(config.poll_interval)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked in all threads, the signals wait until sigwait() below asks for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        config = load_config(os.environ)
        engine = connect(config.database_url)
    except (ConfigError, ConnectError) as error:
        sys.exit(str(error))
    stop = threading.Event()
    queue = TaskQueue(engine, config.worker_id, config.stuck_after)
    thread = threading.Thread(target=loop, args=[queue, config, stop], daemon=True)
    thread.start()
    signal.sigwait(signals)
    log.info("Stopping")
    stop.set()
    thread.join()
    engine.dispose()
    log.info("Stopped")


if __name__ == "__main__":
    main()
