"""PostgreSQL and Redis that the user runs, named by two variables of the environment.

WORKER_LABS_POSTGRES_URL names a role that may create databases and roles (CREATEDB and
CREATEROLE, or a superuser); WORKER_LABS_REDIS_URL a Redis that is empty. What a run makes on them,
it removes at its end.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import psycopg

from graders.harness.servers.base import (
    Server,
    ServerError,
    Spawner,
    connect,
    patience,
    postgres_version,
    redis_info,
    redis_version,
)

POSTGRES_URL = "WORKER_LABS_POSTGRES_URL"
REDIS_URL = "WORKER_LABS_REDIS_URL"

OLDEST = 130000  # gen_random_uuid() and DROP DATABASE … WITH (FORCE) came with PostgreSQL 13


def start_postgres(keeper: Spawner, run_dir: Path) -> Server:
    """The PostgreSQL that WORKER_LABS_POSTGRES_URL names, checked. Raises ServerError."""
    url, host, port = _read(POSTGRES_URL, ("postgresql", "postgres"), 5432)
    # Options such as sslmode are left out: the wire between worker and server speaks plainly.
    database = url.path if url.path.strip("/") else "/postgres"
    admin_url = urlunsplit(("postgresql", url.netloc, database, "", ""))
    try:
        with connect(admin_url, timeout=10 * patience()) as admin:
            row = admin.execute(
                "SELECT rolsuper OR (rolcreatedb AND rolcreaterole), rolname"
                " FROM pg_roles WHERE rolname = CURRENT_USER"
            ).fetchone()
            version, number = postgres_version(admin), admin.info.server_version
    except (psycopg.Error, OSError) as error:
        said = " ".join(str(error).split())
        raise ServerError(
            f"{POSTGRES_URL}: no connection to {host}:{port} without TLS: {said}"
        ) from error
    if number < OLDEST:
        raise ServerError(f"{POSTGRES_URL}: {version} is too old; the labs need PostgreSQL 13.")
    if not row or not row[0]:
        raise ServerError(
            f"{POSTGRES_URL}: the role {row[1] if row else ''} may not create databases and roles; "
            f"give it both: ALTER ROLE … CREATEDB CREATEROLE."
        )
    return Server("postgres", host, port, admin_url, version, "external")


def start_redis(keeper: Spawner, run_dir: Path) -> Server:
    """The empty Redis that WORKER_LABS_REDIS_URL names. Raises ServerError."""
    url, host, port = _read(REDIS_URL, ("redis",), 6379)
    if url.username or url.password:
        raise ServerError(f"{REDIS_URL}: the labs' workers use no password, so it can have none.")
    try:
        info = redis_info(host, port, timeout=10 * patience())
        keys = redis_info(host, port, "keyspace", timeout=10 * patience())
    except PermissionError as error:
        raise ServerError(
            f"{REDIS_URL}: this Redis wants a password, and the labs' workers use none."
        ) from error
    except OSError as error:
        raise ServerError(f"{REDIS_URL}: no connection to {host}:{port}: {error}") from error
    if not info:
        raise ServerError(f"{REDIS_URL}: what answers at {host}:{port} is no Redis, or not ready.")
    if keys:
        raise ServerError(
            f"{REDIS_URL}: this Redis is not empty ({', '.join(sorted(keys))} hold keys); the "
            f"grader writes to several databases and would mix them up, so use an empty one."
        )
    return Server("redis", host, port, f"redis://{host}:{port}/0", redis_version(info), "external")


def _read(name: str, schemes: tuple[str, ...], default_port: int) -> tuple[SplitResult, str, int]:
    text = os.environ.get(name, "").strip()
    example = f"{schemes[0]}://user:password@localhost:{default_port}"
    if schemes[0] == "redis":
        example = f"redis://localhost:{default_port}"
    if not text:
        raise ServerError(f"SERVICES=external needs {name}, such as {example}.")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port or default_port
    except ValueError:
        host = None
    if not host or url.scheme not in schemes or "," in url.netloc:
        raise ServerError(f"{name} is not a URL of one server, such as {example}.")
    return url, host, port
