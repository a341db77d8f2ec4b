"""The worker's loop: take a job, do it, store how it ended."""

from __future__ import annotations

import logging
import threading

from .queue import Job, JobQueue, parse

log = logging.getLogger(__name__)


def run(queue: JobQueue, stop: threading.Event) -> None:
    """Take one job after the other until `stop` is set. What was taken is finished first."""
    while not stop.is_set():
        entry = queue.take()  # TODO 19: what if Redis is away?
        if entry is not None:
            work_on(entry, queue)


def work_on(entry: bytes, queue: JobQueue) -> None:
    """Do the job that was taken and store its result; put aside what is no job."""
    job = parse(entry)  # TODO 18: what if it is no job?
    # TODO 22: log what was taken, and how it ended and after how long.
    queue.store(job, do(job))


def do(job: Job) -> str:
    """Do the work of a job. Returns how it ended: `completed` or `failed`."""
    # TODO 17: what if the work fails?
    raise NotImplementedError("TODO 13 is open: do the work of a job (worker/loop.py)")
