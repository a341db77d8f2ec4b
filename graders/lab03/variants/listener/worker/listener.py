"""The listener: wakes the loop when somebody says that there is a task."""

from __future__ import annotations

import logging
import threading

import psycopg

from .config import Config
from .queue import RECONNECT_PAUSE, one_line

log = logging.getLogger(__name__)

CHANNEL = "task_added"
SLICE = 0.25  # seconds between two looks at whether it is time to end
CLOSE_TIMEOUT = 6  # seconds


class Listener:
    """A thread that listens on a connection of its own, inside `with listener:`."""

    def __init__(self, config: Config, wake: threading.Event) -> None:
        self._database_url = config.database_url
        self._wake = wake
        self._ended = threading.Event()
        # A daemon: a LISTEN that is never answered must not keep the worker from ending.
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                # In autocommit, for what is notified is only told outside a transaction.
                with psycopg.connect(
                    self._database_url, autocommit=True, connect_timeout=10
                ) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._wake.set()  # nobody has heard what was notified until now
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=SLICE):
                            self._wake.set()
            except psycopg.Error as error:  # of whatever kind: the polls go on meanwhile
                log.warning("Listening failed, connecting again: %s", one_line(error))
                self._ended.wait(RECONNECT_PAUSE)
