"""The worker's configuration: environment variables and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class ConfigError(Exception):
    """A variable is missing or wrong. The text names it, and never shows a password."""


@dataclass(frozen=True)
class Config:
    """What the worker was told at its start. Times are in seconds."""

    database_url: str = field(repr=False)  # it holds a password
    worker_id: str
    poll_interval: float
    stuck_after: float


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration, or raise ConfigError at the first variable that cannot be used."""
    # TODO 10: raise ConfigError when DATABASE_URL is missing or empty.
    return Config(
        database_url=environ.get("DATABASE_URL", ""),
        worker_id=environ.get("WORKER_ID", "worker"),  # TODO 13: a default that is never shared
        poll_interval=_seconds(environ, "WORKER_POLL_INTERVAL", default="2"),
        stuck_after=_seconds(environ, "WORKER_STUCK_AFTER", default="300"),
    )


def _seconds(environ: Mapping[str, str], name: str, default: str) -> float:
    # TODO 10: raise ConfigError when this is not a number ("nan" and "inf" neither), zero or less.
    return float(environ.get(name, default))
