"""Starts the API: `python -m orchestrator`."""

from __future__ import annotations

import logging
import os
import signal
import sys

import uvicorn

from .app import create_app
from .config import ConfigError, load_config
from .store import TaskStore, connect

STOP_WITHIN = 8  # seconds for requests in flight; Docker kills ten seconds after SIGTERM


def main() -> None:
    # uvicorn takes SIGTERM over while it runs, stops softly, and then raises it once more for
    # whoever had it before. By default that would kill the process, and not end it with status 0.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"orchestrator: {error}")

    app = create_app(TaskStore(connect(config.redis_host, config.redis_port)))
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        log_config=None,  # our own format for its logs too
        timeout_graceful_shutdown=STOP_WITHIN,
    )


if __name__ == "__main__":
    main()
