"""The API by Starlette and asyncpg: `python -m api`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .app import create_app as described
from .config import ConfigError, load_config
from .models import NewTask, TaskChanges
from .store import open_store

STATUSES = ("pending", "processing", "completed", "failed")
GONE = (OSError, asyncio.TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError,
        asyncpg.exceptions.CannotConnectNowError, asyncpg.exceptions.AdminShutdownError)


class Pool:
    """asyncpg's pool, which cannot be made while the database is away: made when it is needed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: asyncpg.Pool | None = None
        self.lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self):
        async with self.lock:
            if self.made is None:
                self.made = await asyncpg.create_pool(
                    self.url, min_size=1, max_size=10, timeout=3, command_timeout=4
                )
        async with self.made.acquire(timeout=10) as connection:
            yield connection

    async def close(self) -> None:
        if self.made is not None:
            await self.made.close()


def answer(status: int, data=None, message: str | None = None) -> Response:
    error = None if message is None else {"message": message}
    raw = json.dumps({"data": data, "error": error}, default=str)
    return Response(raw, status, media_type="application/json")


def task(row: asyncpg.Record | None) -> dict:
    if row is None:
        raise HTTPException(404, "no such task")
    return {key: value.isoformat() if key.endswith("_at") else value for key, value in row.items()}


def number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:20]) <= most:
        raise HTTPException(422, f"{name} must be a number from 1 to {most}")
    return int(given)


def the_id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise HTTPException(422, "the id is no UUID") from None


async def body(request: Request, model):
    try:
        told = model.model_validate_json(await request.body())
    except ValidationError as error:
        message = "; ".join(each["msg"] for each in error.errors(include_input=False))
        raise HTTPException(422, message) from None
    return told.model_dump(exclude_unset=model is TaskChanges)


async def create(request: Request) -> Response:
    new = await body(request, NewTask)
    async with request.app.state.pool.connection() as connection:
        row = await connection.fetchrow(
            "INSERT INTO tasks (title, description, type, priority) VALUES ($1, $2, $3, $4)"
            " RETURNING *", new["title"], new["description"], new["type"], new["priority"],
        )
    return answer(201, task(row))


async def listed(request: Request) -> Response:
    page = number(request, "page", 1, 10**15)
    limit = number(request, "limit", 20, 100)
    status = request.query_params.get("status")
    if status is not None and status not in STATUSES:
        raise HTTPException(422, "no such status")
    wanted = STATUSES if status is None else (status,)
    async with request.app.state.pool.connection() as connection, connection.transaction(
        isolation="repeatable_read", readonly=True
    ):
        total = await connection.fetchval(
            "SELECT count(*) FROM tasks WHERE status = ANY($1)", wanted
        )
        rows = await connection.fetch(
            "SELECT * FROM tasks WHERE status = ANY($1) ORDER BY created_at DESC, id DESC"
            " LIMIT $2 OFFSET $3", wanted, limit, (page - 1) * limit,
        )
    return answer(200, {"tasks": [task(row) for row in rows], "total": total, "page": page,
                        "limit": limit})


async def show(request: Request) -> Response:
    async with request.app.state.pool.connection() as connection:
        return answer(200, task(
            await connection.fetchrow("SELECT * FROM tasks WHERE id = $1", the_id(request))
        ))


async def change(request: Request) -> Response:
    id, changes = the_id(request), await body(request, TaskChanges)
    sets = [f"{name} = ${place}" for place, name in enumerate(changes, 2)]
    sets += ["updated_at = now()"] + ["assigned_worker = NULL"] * ("status" in changes)
    async with request.app.state.pool.connection() as connection:
        # One statement: the status is looked at and changed in it.
        row = await connection.fetchrow(
            f"UPDATE tasks SET {', '.join(sets)} WHERE id = $1"
            + (" AND status = 'failed'" if "status" in changes else "") + " RETURNING *",
            id, *changes.values(),
        )
        if row is None:
            task(await connection.fetchrow("SELECT * FROM tasks WHERE id = $1", id))
            raise HTTPException(409, "it has not failed")
    return answer(200, task(row))


async def delete(request: Request) -> Response:
    async with request.app.state.pool.connection() as connection:
        return answer(200, task(await connection.fetchrow(
            "DELETE FROM tasks WHERE id = $1 RETURNING *", the_id(request)
        )))


async def health(request: Request) -> Response:
    async with request.app.state.pool.connection() as connection:
        await connection.fetchval("SELECT 1")
    return answer(200, {"status": "ok"})


async def document(request: Request) -> Response:
    return Response(json.dumps(request.app.state.document), media_type="application/json")


async def refused(request: Request, error: HTTPException) -> Response:
    return answer(error.status_code, message=str(error.detail))


async def gone(request: Request, error: Exception) -> Response:
    return answer(503, message="the database is away")


async def broken(request: Request, error: Exception) -> Response:
    return answer(500, message="the server made a mistake")


@asynccontextmanager
async def lifespan(app: Starlette):
    yield
    await app.state.pool.close()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"api: {error}")
    app = Starlette(
        routes=[
            Route("/tasks", create, methods=["POST"]),
            Route("/tasks", listed, methods=["GET"]),
            Route("/tasks/{id}", show, methods=["GET"]),
            Route("/tasks/{id}", change, methods=["PUT"]),
            Route("/tasks/{id}", delete, methods=["DELETE"]),
            Route("/health", health),
            Route("/openapi.json", document),
        ],
        exception_handlers={
            HTTPException: refused, **dict.fromkeys(GONE, gone), Exception: broken,
        },
        lifespan=lifespan,
    )
    app.state.pool = Pool(config.database_url)
    # The reference's routes are the same; only its description is asked for.
    app.state.document = described(open_store(config.database_url)).openapi()
    uvicorn.run(app, host=config.host, port=config.port)


if __name__ == "__main__":
    main()
