"""The orchestrator's configuration: environment variables and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class ConfigError(Exception):
    """A variable cannot be used. The text names it."""


@dataclass(frozen=True)
class Config:
    """Where to listen, and where Redis is."""

    host: str
    port: int
    redis_host: str
    redis_port: int


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration, or raise ConfigError at the first variable that cannot be used."""
    return Config(
        host="127.0.0.1",  # TODO 10: HOST, if it is set
        port=_port(environ, "PORT", default="8000"),
        redis_host=environ.get("REDIS_HOST", "localhost"),
        redis_port=_port(environ, "REDIS_PORT", default="6379"),
    )


def _port(environ: Mapping[str, str], name: str, default: str) -> int:
    # TODO 10: raise ConfigError when this is no whole number from 1 to 65535.
    return int(environ.get(name, default))
