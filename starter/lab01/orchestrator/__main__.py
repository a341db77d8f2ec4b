"""Starts the API: `python -m orchestrator`."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn

from .app import create_app
from .config import ConfigError, load_config
from .store import TaskStore, connect


def main() -> None:
    # TODO 11: after a SIGTERM the exit status is to be 0.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"orchestrator: {error}")

    app = create_app(TaskStore(connect(config.redis_host, config.redis_port)))
    # log_config=None: our own format for uvicorn's logs too.
    # TODO 11: and how long may it take to stop?
    uvicorn.run(app, host=config.host, port=config.port, log_config=None)


if __name__ == "__main__":
    main()
