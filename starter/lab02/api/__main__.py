"""Starts the API: `python -m api`."""

from __future__ import annotations

import os
import sys

import uvicorn

from .app import create_app
from .config import ConfigError, load_config
from .store import open_store

# Seconds for the requests in flight at SIGTERM. Docker sends SIGKILL after ten.
SHUTDOWN_LIMIT = 6


def main() -> None:
    # TODO 18: a good end by SIGTERM has the exit status 0.
    try:
        config = load_config(os.environ)
        app = create_app(open_store(config.database_url))
    except (ConfigError, NotImplementedError) as error:  # no TODO raises the second any more? Out
        sys.exit(f"api: {error}")
    # TODO 18: a stop must not take longer than SHUTDOWN_LIMIT.
    uvicorn.run(app, host=config.host, port=config.port)


if __name__ == "__main__":
    main()
