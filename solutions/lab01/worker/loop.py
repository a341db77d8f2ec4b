"""The worker's loop: take a job, do it, store how it ended."""

from __future__ import annotations

import logging
import threading
import time

from redis import RedisError
from work import WorkFailed, perform

from .queue import RETRY_PAUSE, Job, JobQueue, parse

log = logging.getLogger(__name__)


def run(queue: JobQueue, stop: threading.Event) -> None:
    """Take one job after the other until `stop` is set. What was taken is finished first."""
    while not stop.is_set():
        try:
            entry = queue.take()
        except RedisError as error:
            log.warning("No job could be taken, trying again: %s", error)
            stop.wait(RETRY_PAUSE)
            continue
        if entry is not None:
            work_on(entry, queue)


def work_on(entry: bytes, queue: JobQueue) -> None:
    """Do the job that was taken and store its result; put aside what is no job."""
    try:
        job = parse(entry)
    except ValueError as error:
        log.error("Malformed job put aside, %s: %.200r", error, entry)
        queue.put_aside(entry)
        return
    log.info("Job %(subtask_id)s taken: %(description)r", job)
    started = time.monotonic()
    status = do(job)
    queue.store(job, status)
    log.info("Job %s %s after %.2f s", job["subtask_id"], status, time.monotonic() - started)


def do(job: Job) -> str:
    """Do the work of a job. Returns how it ended: `completed` or `failed`."""
    try:
        perform(job)
        return "completed"
    except WorkFailed as error:
        log.error("Job %s: %s", job["subtask_id"], error)
    except Exception:  # a fault in the work must not take the worker down
        log.exception("Job %s: its work broke", job["subtask_id"])
    return "failed"
