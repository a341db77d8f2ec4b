"""The reaper: puts stuck tasks back to pending, beside the loop and not in its poll."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from .config import Config
from .queue import CLAIM, RECONNECT_PAUSE, SELECT_OLDEST, Task, TaskQueue, one_line

log = logging.getLogger(__name__)

# All but the task in hand: of that one it is known that its worker lives. It is told by its id and
# not by assigned_worker, which may be the name of a predecessor that died.
RECOVER = """
    UPDATE tasks SET status = 'pending', assigned_worker = NULL, updated_at = now()
    WHERE id IN (
        SELECT id FROM tasks
        WHERE status = 'processing' AND updated_at < now() - make_interval(secs => %s)
            AND id IS DISTINCT FROM %s
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id, title
"""
LONGEST_INTERVAL = 30  # seconds
CLOSE_TIMEOUT = 6  # seconds


class Reaper:
    """A thread that recovers on a connection of its own, inside `with reaper:`."""

    def __init__(self, config: Config) -> None:
        self.in_hand: Task | None = None
        self._config = config
        # A stuck task waits half as long again at most; asking more often would be busy polling.
        self._interval = min(config.stuck_after / 2, LONGEST_INTERVAL)
        self._ended = threading.Event()
        # A daemon: a statement that is never answered must not keep the worker from ending.
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with psycopg.connect(
                    self._config.database_url,
                    autocommit=True,
                    row_factory=dict_row,
                    connect_timeout=10,
                ) as connection:
                    while not self._ended.is_set():
                        self._recover(connection)
                        self._ended.wait(self._interval)
            except psycopg.Error as error:  # of whatever kind: nobody else recovers
                log.warning("The reaper failed, connecting again: %s", one_line(error))
                self._ended.wait(RECONNECT_PAUSE)

    def _recover(self, connection: psycopg.Connection) -> None:
        task = self.in_hand  # read once, for the loop may change it at any time
        for stuck in connection.execute(
            RECOVER, [self._config.stuck_after, task["id"] if task else None]
        ):
            log.warning("Recovered task %(id)s %(title)r: its worker seems to be gone", stuck)


@dataclass(frozen=True)
class ReapedQueue(TaskQueue):
    """A queue whose poll only claims; it tells the reaper which task is in hand."""

    reaper: Reaper

    def claim(self) -> Task | None:
        with self.pool.connection() as connection:
            with connection.transaction():  # the row stays locked until the claim is committed
                task = connection.execute(SELECT_OLDEST).fetchone()
                if task:
                    connection.execute(CLAIM, [self.worker_id, task["id"]])
            # A claim that was committed unheard is not in hand, and is recovered like any other.
            self.reaper.in_hand = task
            return task

    def record(self, task: Task, status: str) -> None:
        super().record(task, status)
        self.reaper.in_hand = None
