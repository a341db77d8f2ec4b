"""Starts the worker: `python -m worker`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from .config import ConfigError, load_config
from .loop import run
from .queue import ConnectError, JobQueue, connect

log = logging.getLogger("worker")


def stop_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and SIGINT set `stop`. The same signal once more ends the process at once."""
    # TODO 20: write a handler with signal.signal() for both.


def block_signals() -> None:
    """Leave the signals to the main thread: it alone runs handlers, and sleeps on without one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def main() -> None:
    # Only our own loggers speak at INFO; of the libraries, warnings are enough.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)

    stop = threading.Event()
    stop_on_signals(stop)
    try:
        config = load_config(os.environ)
        redis = connect(config.redis_host, config.redis_port)
    except (ConfigError, ConnectError) as error:
        sys.exit(f"worker: {error}")
    # TODO 22: log the start, with the queue and where Redis is.

    # Python runs a signal handler in the main thread, between any two of its instructions. If that
    # thread were inside stop.wait() just then, stop.set() could wait for a lock that its own thread
    # holds, for ever. So the main thread only waits, and the loop has a thread of its own.
    try:
        with ThreadPoolExecutor(max_workers=1, initializer=block_signals) as thread:
            thread.submit(run, JobQueue(redis, config.worker_id), stop).result()
    except NotImplementedError as todo:  # take this away once no TODO raises it any more
        log.error("%s", todo)
        redis.close()
        sys.exit(1)
    # TODO 21: the loop has ended: close the client, and log that the worker has stopped.


if __name__ == "__main__":
    main()
