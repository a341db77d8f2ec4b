"""The worker's configuration: environment variables and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class ConfigError(Exception):
    """A variable cannot be used. The text names it."""


@dataclass(frozen=True)
class Config:
    """What the worker was told at its start."""

    redis_host: str
    redis_port: int
    worker_id: str


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration, or raise ConfigError at the first variable that cannot be used."""
    return Config(
        redis_host=environ.get("REDIS_HOST", "localhost"),
        redis_port=_port(environ, "REDIS_PORT", default="6379"),
        worker_id="worker-1",  # TODO 14: WORKER_ID, if it is set
    )


def _port(environ: Mapping[str, str], name: str, default: str) -> int:
    # TODO 15: raise ConfigError when this is no whole number from 1 to 65535.
    return int(environ.get(name, default))
