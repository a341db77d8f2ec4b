"""Runs the migrations: `python -m migrate up` applies all that are missing, `down` undoes one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg
from api.config import ConfigError, read_database_url

MIGRATIONS = Path(__file__).parent.parent / "migrations"
LOCK = 5_412_702  # any number, as long as nothing else on this database locks the same one

CREATE_BOOK = ""  # TODO 13: a table schema_migrations that says what was applied, and when
APPLIED = ""  # TODO 13: the names that stand in it
ENTER = ""  # TODO 13: this one was applied
STRIKE = ""  # TODO 14: this one was undone


class MigrationError(Exception):
    """A migration could not be run. The text names its file and says why, in one line."""


def up(connection: psycopg.Connection) -> None:
    """Apply what is not applied yet, in order."""
    # TODO 13: "what is not applied yet": now it runs every file each time.
    for path in sorted(MIGRATIONS.glob("*.up.sql")):
        statements = path.read_text(encoding="utf-8")
        if statements.startswith("-- TODO"):
            raise NotImplementedError(f"{statements[3:].strip()} (migrations/{path.name})")
        # TODO 15: the file and its record in one transaction; MigrationError when it fails.
        connection.execute(statements)
        print(f"applied {path.name}")


def down(connection: psycopg.Connection) -> None:
    """Undo the one that was applied last."""
    raise NotImplementedError("TODO 14 is open: undo a migration (migrate/__main__.py)")


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return str(error)  # TODO 15: PostgreSQL's errors have more than one line


def main() -> None:
    # TODO 13: anything but "up" and "down" is a mistake: say how it is used, exit status 2.
    command = down if sys.argv[1:] == ["down"] else up
    try:
        url = read_database_url(os.environ)
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            # TODO 16: wait here while somebody else migrates.
            command(connection)
    except (ConfigError, MigrationError, NotImplementedError) as error:
        sys.exit(f"migrate: {error}")
    except psycopg.Error as error:
        sys.exit(f"migrate: the database cannot be used: {one_line(error)}")


if __name__ == "__main__":
    main()
