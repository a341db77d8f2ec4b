"""Migrations in one transaction, with one number as the bookkeeping: `python -m migrate up`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg
from api.config import ConfigError, read_database_url

FOLDER = Path(__file__).parent.parent / "migrations"

# Two that make it at once: the second one waits, and fails, and tries again.
MAKE = """
    CREATE SCHEMA IF NOT EXISTS bookkeeping;
    CREATE TABLE IF NOT EXISTS bookkeeping.version (one bool PRIMARY KEY, number int NOT NULL);
    INSERT INTO bookkeeping.version VALUES (true, 0) ON CONFLICT DO NOTHING;
"""


def number_of(path: Path) -> int:
    return int(path.name.partition("_")[0])


def migrate(connection: psycopg.Connection, direction: str) -> None:
    for _ in range(3):
        try:
            connection.execute(MAKE)
            break
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
            continue
    with connection.transaction():
        at = connection.execute("SELECT number FROM bookkeeping.version FOR UPDATE").fetchone()[0]
        files = sorted(FOLDER.glob(f"*.{direction}.sql"), key=number_of)
        if direction == "up":
            todo = [path for path in files if number_of(path) > at]
            at = max(map(number_of, files), default=0)
        else:
            todo = [path for path in reversed(files) if number_of(path) <= at]
            at = 0
        for path in todo:
            try:
                connection.execute(path.read_bytes())
            except psycopg.Error as error:
                sys.exit(f"{path.name} failed, nothing was changed: {str(error).splitlines()[0]}")
        connection.execute("UPDATE bookkeeping.version SET number = %s", [at])
    print(f"{direction}: {', '.join(path.name for path in todo) or 'nothing to do'}")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ("up", "down"):
        print("usage: python -m migrate up|down", file=sys.stderr)
        sys.exit(2)
    try:
        with psycopg.connect(read_database_url(os.environ), autocommit=True) as connection:
            migrate(connection, sys.argv[1])
    except (ConfigError, psycopg.Error) as error:
        sys.exit(f"migrate: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
