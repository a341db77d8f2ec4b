"""The configuration: environment variables and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import conninfo_to_dict


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
    port = environ.get("PORT", "8080")
    if not _is_port(port):
        raise ConfigError(f"PORT must be a number from 1 to 65535, not {port!r}")
    return Config(
        database_url=read_database_url(environ),
        host=environ.get("HOST") or "127.0.0.1",
        port=int(port),
    )


def read_database_url(environ: Mapping[str, str]) -> str:
    """DATABASE_URL, if PostgreSQL's library can read it. Whether a server is there is not asked."""
    url = environ.get("DATABASE_URL")
    if not url:
        raise ConfigError("DATABASE_URL is not set")
    try:
        options = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text would show the URL, password and all
        raise ConfigError("DATABASE_URL is not a PostgreSQL connection URL") from None
    host, port = str(options.get("host", "")), str(options.get("port", 5432))
    if "@" in host or not _is_port(port):  # part of a password may have been read as either
        raise ConfigError("DATABASE_URL is malformed; in a password, write @ as %40 and / as %2F")
    return url


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535
