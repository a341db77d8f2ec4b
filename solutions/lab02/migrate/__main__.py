"""Runs the migrations: `python -m migrate up` applies all that are missing, `down` undoes one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg
from api.config import ConfigError, read_database_url

MIGRATIONS = Path(__file__).parent.parent / "migrations"
LOCK = 5_412_702  # any number, as long as nothing else on this database locks the same one

CREATE_BOOK = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        name       text        PRIMARY KEY,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
APPLIED = "SELECT name FROM schema_migrations ORDER BY applied_at, name"
ENTER = "INSERT INTO schema_migrations (name) VALUES (%s)"
STRIKE = "DELETE FROM schema_migrations WHERE name = %s"


class MigrationError(Exception):
    """A migration could not be run. The text names its file and says why, in one line."""


def up(connection: psycopg.Connection) -> None:
    """Apply what is not applied yet, in order."""
    applied = _applied(connection)
    missing = [path for path in sorted(MIGRATIONS.glob("*.up.sql")) if _name(path) not in applied]
    for path in missing:
        _run(connection, path, ENTER)
        print(f"applied {_name(path)}")
    if not missing:
        print("nothing to apply")


def down(connection: psycopg.Connection) -> None:
    """Undo the one that was applied last."""
    applied = _applied(connection)
    if not applied:
        print("nothing to undo")
        return
    _run(connection, MIGRATIONS / f"{applied[-1]}.down.sql", STRIKE)
    print(f"undid {applied[-1]}")


def _run(connection: psycopg.Connection, path: Path, record: str) -> None:
    """Run a file and record it, both in one transaction: all of it happens, or nothing."""
    try:
        with connection.transaction():
            connection.execute(path.read_bytes())
            connection.execute(record, [_name(path)])
    except (OSError, psycopg.Error) as error:
        raise MigrationError(f"{path.name} failed: {one_line(error)}") from None


def _applied(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(APPLIED)]


def _name(path: Path) -> str:
    return path.name.removesuffix(".up.sql").removesuffix(".down.sql")


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())


def main() -> None:
    command = {("up",): up, ("down",): down}.get(tuple(sys.argv[1:]))
    if command is None:
        print("usage: python -m migrate up|down", file=sys.stderr)
        sys.exit(2)
    try:
        url = read_database_url(os.environ)
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            # Whoever comes second waits here, and looks only then at what is left to do. The lock
            # is the session's: it is gone when the connection is, however this program ends.
            connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
            connection.execute(CREATE_BOOK)
            command(connection)
    except (ConfigError, MigrationError) as error:
        sys.exit(f"migrate: {error}")
    except psycopg.Error as error:
        sys.exit(f"migrate: the database cannot be used: {one_line(error)}")


if __name__ == "__main__":
    main()
