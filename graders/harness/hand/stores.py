"""The lab's store for the commands by hand: connections, and errors in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import psycopg

from graders.harness.hand import servers
from graders.harness.report.text import clean
from graders.harness.settings import Lab, SettingError

if TYPE_CHECKING:
    import redis

PATIENT = 10  # seconds for a connection, and for an answer of Redis


class NoTable(SettingError):
    """The table of tasks is not there."""


@contextlib.contextmanager
def database(lab: Lab, env: Mapping[str, str]) -> Iterator[psycopg.Connection[Any]]:
    """The lab's database, for whoever owns its tables.

    What it refuses is a SettingError; that it has no table of tasks, a NoTable.
    """
    url = servers.database_url(lab, env)
    try:
        link = psycopg.connect(url, autocommit=True, connect_timeout=PATIENT)
    except psycopg.Error as error:
        raise SettingError(f"The database cannot be reached: {_first_line(error)}") from None
    try:
        with link:
            yield link
    except psycopg.errors.UndefinedTable:
        made = f" yet. Make it with: make migrate LAB={lab.number}" if lab.migrates else "."
        raise NoTable(f"There is no table “tasks”{made}") from None
    except psycopg.OperationalError:
        raise SettingError("The database does not answer any more.") from None
    except psycopg.Error as error:
        # A column that is missing or of another type, say.
        known = isinstance(error, psycopg.errors.InsufficientPrivilege)
        fits = known or not isinstance(error, psycopg.ProgrammingError)
        what = "The database refuses" if fits else "The table “tasks” is not as the lab has it"
        raise SettingError(f"{what}: {_first_line(error)}") from None


@contextlib.contextmanager
def queue_server(env: Mapping[str, str]) -> Iterator[redis.Redis]:
    """The Redis that is up. What it refuses, and that it is gone, is a SettingError."""
    # Imported here: it takes a quarter of a second, and most labs have no Redis.
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    host, port = servers.redis_address(env)
    client = redis.Redis(
        host, port, socket_connect_timeout=PATIENT, socket_timeout=PATIENT,
        retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    reached = False
    try:
        with client:
            client.ping()
            reached = True
            yield client
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if reached:
            raise SettingError("Redis does not answer any more.") from None
        raise SettingError(
            f"Redis cannot be reached at {host}:{port}: {_first_line(error)}"
        ) from None
    except redis.exceptions.RedisError as error:
        raise SettingError(f"Redis refuses: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return clean((str(error).strip() or type(error).__name__).splitlines()[0])
