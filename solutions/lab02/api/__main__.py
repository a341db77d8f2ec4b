"""Starts the API: `python -m api`."""

from __future__ import annotations

import os
import signal
import sys

import uvicorn

from .app import create_app
from .config import ConfigError, load_config
from .store import open_store

# Seconds for the requests in flight at SIGTERM. Docker sends SIGKILL after ten.
SHUTDOWN_LIMIT = 6


def main() -> None:
    # uvicorn stops softly at SIGTERM: it accepts no more, and answers what is in flight. Then it
    # raises the signal once more, for whoever handled it before: a good end is exit status 0.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"api: {error}")
    app = create_app(open_store(config.database_url))
    uvicorn.run(app, host=config.host, port=config.port, timeout_graceful_shutdown=SHUTDOWN_LIMIT)


if __name__ == "__main__":
    main()
