"""The worker's loop: claim, work, record, and wait only when there is nothing to do."""

from __future__ import annotations

import logging
import threading
import time

import psycopg
from work import WorkFailed

from .config import Config
from .queue import RECONNECT_PAUSE, Task, TaskQueue, one_line
from .tasks import handle

log = logging.getLogger(__name__)


def run(queue: TaskQueue, config: Config, stop: threading.Event, wake: threading.Event) -> None:
    """Take one task after the other until `stop` is set. A task in hand is finished first.

    `wake` ends the wait after an empty poll early: there may be a task, or `stop` was set.
    """
    log.info("Worker %s started, polling every %g s", config.worker_id, config.poll_interval)
    while True:
        # Cleared before the two looks that follow: what is set after them is still set at the wait.
        wake.clear()
        if stop.is_set():
            break
        try:
            task = queue.claim()
        except psycopg.OperationalError as error:
            log.warning("The poll failed, trying again: %s", one_line(error))
            stop.wait(RECONNECT_PAUSE)
            continue
        if task:
            work_on(task, queue)
        else:
            log.info("No pending task, next poll in %g s", config.poll_interval)
            wake.wait(config.poll_interval)


def work_on(task: Task, queue: TaskQueue) -> None:
    """Do the work of a claimed task, outside any transaction, and record how it ended."""
    log.info("Claimed task %(id)s %(title)r", task)
    started = time.monotonic()
    try:
        handle(task)
        status = "completed"
    except WorkFailed as error:
        log.error("Task %s: %s", task["id"], error)
        status = "failed"
    except Exception:  # a fault in a handler must not take the worker down
        log.exception("Task %s: its handler broke", task["id"])
        status = "failed"
    queue.record(task, status)
    log.info("Task %s %s after %.2f s", task["id"], status, time.monotonic() - started)
