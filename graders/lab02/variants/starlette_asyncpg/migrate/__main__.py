"""Migrations by asyncpg, one run at a time by a lock on the bookkeeping's own table."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncpg
from api.config import ConfigError, read_database_url

FOLDER = Path(__file__).parent.parent / "migrations"


async def run(direction: str) -> None:
    connection = await asyncpg.connect(read_database_url(os.environ), timeout=10)
    try:
        while True:
            try:
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS applied (number int PRIMARY KEY, name text)"
                )
                break
            except asyncpg.UniqueViolationError:  # another one has just made it
                continue
        while await step(connection, direction):
            pass
    finally:
        await connection.close()


async def step(connection: asyncpg.Connection, direction: str) -> bool:
    """One migration in one transaction; whether there may be another one."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE applied IN SHARE ROW EXCLUSIVE MODE")
        done = {r["number"]: r["name"] for r in await connection.fetch("SELECT * FROM applied")}
        if direction == "down":
            if not done:
                print("nothing to undo")
                return False
            number = max(done)
            file = FOLDER / f"{done[number]}.down.sql"
        else:
            files = {int(f.name.partition("_")[0]): f for f in FOLDER.glob("*.up.sql")}
            missing = sorted(files.keys() - done.keys())
            if not missing:
                return False
            number, file = missing[0], files[missing[0]]
        name = file.name.removesuffix(".up.sql")
        try:
            await connection.execute(file.read_text())
        except (asyncpg.PostgresError, OSError) as error:
            sys.exit(f"{file.name}: {error}")
        if direction == "down":
            await connection.execute("DELETE FROM applied WHERE number = $1", number)
        else:
            await connection.execute("INSERT INTO applied VALUES ($1, $2)", number, name)
    print(direction, name)
    return direction == "up"


def main() -> None:
    if sys.argv[1:] not in (["up"], ["down"]):
        print("usage: python -m migrate up|down", file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(run(sys.argv[1]))
    except (TimeoutError, ConfigError, OSError, asyncpg.PostgresError) as error:
        sys.exit(f"migrate: {error!r}")


if __name__ == "__main__":
    main()
