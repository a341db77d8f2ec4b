"""The heartbeat: renews the claim of the task in hand for as long as the work goes on."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import psycopg

from .config import Config
from .queue import Task, TaskQueue, one_line

log = logging.getLogger(__name__)

# The guard of RECORD: a claim that was taken from us is not renewed.
RENEW = """
    UPDATE tasks SET updated_at = now()
    WHERE id = %s AND assigned_worker = %s AND status = 'processing'
"""
CLOSE_TIMEOUT = 6  # seconds


class Heartbeat:
    """A thread that beats on a connection of its own, inside `with heartbeat:`."""

    def __init__(self, config: Config) -> None:
        self.in_hand: Task | None = None
        self._config = config
        # Three beats to a WORKER_STUCK_AFTER, so that one may be lost together with its connection.
        self._interval = min(config.stuck_after / 3, 0.25)
        self._ended = threading.Event()
        # A daemon: a beat that is never answered must not keep the worker from ending.
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with psycopg.connect(
                    self._config.database_url, autocommit=True, connect_timeout=10
                ) as connection:
                    while not self._ended.is_set():
                        self._beat(connection)
                        self._ended.wait(self._interval)
            except psycopg.Error as error:  # of whatever kind: without this thread no task is safe
                log.warning("A heartbeat failed, connecting again: %s", one_line(error))
                self._ended.wait(self._interval)

    def _beat(self, connection: psycopg.Connection) -> None:
        task = self.in_hand  # read once, for the loop may change it at any time
        if task:
            connection.execute(RENEW, [task["id"], self._config.worker_id])
        else:  # a lost connection is noticed now, and not when a claim has to be renewed
            connection.execute("SELECT 1 AS heartbeat")


@dataclass(frozen=True)
class RenewedQueue(TaskQueue):
    """A queue that tells the heartbeat which task is in hand."""

    heartbeat: Heartbeat

    def claim(self) -> Task | None:
        # A claim that was committed unheard is not in hand: nobody renews it, so it is recovered.
        self.heartbeat.in_hand = task = super().claim()
        return task

    def record(self, task: Task, status: str) -> None:
        super().record(task, status)
        self.heartbeat.in_hand = None  # not before: until it is recorded it must not be recovered
