"""The configuration: environment variables and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class ConfigError(Exception):
    """A variable is missing or wrong. The text names it, and never shows a password."""


@dataclass(frozen=True)
class Config:
    """What the API was told at its start."""

    database_url: str = field(repr=False)  # it holds a password
    host: str
    port: int


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration, or raise ConfigError at the first variable that cannot be used."""
    # TODO 12: raise ConfigError when PORT is not a number from 1 to 65535.
    return Config(
        database_url=read_database_url(environ),
        host=environ.get("HOST") or "127.0.0.1",
        port=int(environ.get("PORT", "8080")),
    )


def read_database_url(environ: Mapping[str, str]) -> str:
    """DATABASE_URL, if PostgreSQL's library can read it. Whether a server is there is not asked."""
    # TODO 12: raise ConfigError when it is missing, empty or malformed.
    return environ.get("DATABASE_URL", "")
