"""The worker's loop: claim, work, record, and wait only when there is nothing to do."""

from __future__ import annotations

import logging
import threading

from .config import Config
from .queue import Task, TaskQueue
from .tasks import handle

log = logging.getLogger(__name__)


def run(queue: TaskQueue, config: Config, stop: threading.Event) -> None:
    """Take one task after the other until `stop` is set. A task in hand is finished first."""
    # TODO 8: log the start, with the poll interval.
    while not stop.is_set():
        task = queue.claim()  # TODO 11: what if the connection is lost here?
        if task:
            work_on(task, queue)
        # TODO 5: wait when nothing was found; log the empty poll (TODO 8).


def work_on(task: Task, queue: TaskQueue) -> None:
    """Do the work of a claimed task, outside any transaction, and record how it ended."""
    # TODO 8: log the claim with the task's id and title, and the end with the time it took.
    handle(task)  # TODO 4: what if the work fails?
    queue.record(task, "completed")
