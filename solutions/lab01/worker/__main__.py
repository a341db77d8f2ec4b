"""Starts the worker: `python -m worker`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from .config import ConfigError, load_config
from .loop import run
from .queue import QUEUE, ConnectError, JobQueue, connect

log = logging.getLogger("worker")


def stop_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and SIGINT set `stop`. The same signal once more ends the process at once."""

    def request_stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        stop.set()
        log.info("%s: stopping, no new job will be taken", signal.Signals(signum).name)

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)


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
    log.info(
        "Worker %s started, taking jobs from %s at %s:%d",
        config.worker_id, QUEUE, config.redis_host, config.redis_port,
    )

    # Python runs a signal handler in the main thread, between any two of its instructions. If that
    # thread were inside stop.wait() just then, stop.set() could wait for a lock that its own thread
    # holds, for ever. So the main thread only waits, and the loop has a thread of its own.
    with redis, ThreadPoolExecutor(max_workers=1, initializer=block_signals) as thread:
        thread.submit(run, JobQueue(redis, config.worker_id), stop).result()
    log.info("Worker %s stopped", config.worker_id)


if __name__ == "__main__":
    main()
