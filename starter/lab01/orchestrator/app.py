"""The routes of the API."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from .limits import BodyLimit
from .store import TaskStore

log = logging.getLogger(__name__)


class NewTask(BaseModel):
    """The body of POST /tasks."""

    # TODO 7: text that is not blank and not too long; a whole number from 0 to 9, not true or "1".
    description: str
    priority: int = 1


def create_app(store: TaskStore) -> FastAPI:
    """The API on top of a store. Whatever is wrong, the answer is JSON with a `detail`."""
    app = FastAPI(title="Orchestrator")
    app.add_middleware(BodyLimit)

    @app.get("/health")
    def health() -> dict[str, str]:
        store.ping()
        return {"status": "ok"}

    @app.post("/tasks", status_code=201)
    def add_task(task: NewTask) -> dict[str, Any]:
        return store.add(task.description, task.priority)

    @app.get("/tasks/{task_id}")
    def get_task(task_id: str) -> dict[str, Any]:
        # TODO 6: 404 for a task that is not there.
        return store.find(task_id) or {}

    # TODO 2: a handler for redis.RedisError, which answers 503.
    # TODO 9: a handler for RequestValidationError, which names the field.

    @app.exception_handler(NotImplementedError)  # take this away once no TODO raises it any more
    def todo_is_open(request: Request, todo: NotImplementedError) -> JSONResponse:
        log.error("%s", todo)
        return JSONResponse({"detail": str(todo)}, 501)

    return app
