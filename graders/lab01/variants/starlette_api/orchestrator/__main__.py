"""The API on Starlette and redis.asyncio: `python -m orchestrator`."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

import uvicorn
from redis import RedisError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .config import Config, ConfigError, load_config
from .splitting import split

MOST = 1 << 20  # bytes of a body


class Bad(Exception):
    """Input that cannot be used: what is wrong, by field."""

    def __init__(self, status: int = 422, **errors: str) -> None:
        super().__init__(str(errors))
        self.status = status
        self.errors = errors


def client(config: Config) -> Redis:
    """One connection for all requests, which take turns."""
    pool = BlockingConnectionPool(
        max_connections=1, timeout=15, host=config.redis_host, port=config.redis_port,
        socket_connect_timeout=5, socket_timeout=5, retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    return Redis(connection_pool=pool)


async def body_of(request: Request) -> Any:
    """The JSON of a request, read as far as it may be long."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST:
            raise Bad(413, body="too long")
    try:
        return json.loads(data, parse_constant=_none)
    except (ValueError, RecursionError):
        raise Bad(400, body="not JSON") from None


def _none(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


async def add(request: Request) -> Response:
    data = await body_of(request)
    if not isinstance(data, dict):
        raise Bad(body="not an object")
    text, priority = data.get("description"), data.get("priority", 1)
    errors = {}
    if not (isinstance(text, str) and text.strip() and len(text) <= 10_000):
        errors["description"] = "text, not blank, not too long"
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 9:
        errors["priority"] = "0 to 9"
    if errors:
        raise Bad(**errors)
    id = str(uuid.uuid4())
    created = datetime.now(UTC).isoformat()
    parts = [{"subtask_id": f"{id}-{n}", "description": part} for n, part in enumerate(split(text))]
    async with request.app.state.redis.pipeline(transaction=True) as together:
        for part in parts:
            job = {"task_id": id, "priority": priority, **part}
            together.lpush("work_queue", json.dumps(job, ensure_ascii=False))
        fields = {"task_id": id, "description": text, "priority": priority, "status": "queued",
                  "created_at": created, "subtasks": json.dumps([p["subtask_id"] for p in parts])}
        for name, value in fields.items():
            together.hset(f"task:{id}", name, value)
        await together.execute()
    told = {"task_id": id, "status": "queued", "created_at": created, "subtasks": parts}
    return JSONResponse(told, 201)


async def look(request: Request) -> Response:
    redis = request.app.state.redis
    task = await redis.hgetall(f"task:{request.path_params['id']}")
    if not task:
        return JSONResponse({"errors": {"task_id": "unknown"}}, 404)
    ids = json.loads(task["subtasks"])
    results = await redis.exists(*[f"result:{id}" for id in ids])
    parts = zip(ids, split(task["description"]), strict=True)
    return JSONResponse({
        **task, "priority": int(task["priority"]), "results": results,
        "status": ["queued", "completed"][results == 4],
        "subtasks": [{"subtask_id": id, "description": part} for id, part in parts],
    })


async def health(request: Request) -> Response:
    await request.app.state.redis.ping()
    return JSONResponse({"status": "ok", "redis": "up"})


async def bad(request: Request, error: Bad) -> Response:
    return JSONResponse({"errors": error.errors}, error.status)


async def away(request: Request, error: Exception) -> Response:
    return JSONResponse({"errors": {"redis": type(error).__name__}}, 503, {"Retry-After": "2"})


def main() -> None:
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"orchestrator: {error}")
    app = Starlette(
        routes=[Route("/tasks", add, methods=["POST"]), Route("/tasks/{id}", look),
                Route("/health", health)],
        exception_handlers={Bad: bad, RedisError: away},
    )
    app.state.redis = client(config)
    uvicorn.run(app, host=config.host, port=config.port, timeout_graceful_shutdown=8)


if __name__ == "__main__":
    main()
