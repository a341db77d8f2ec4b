"""The routes of the API."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError
from redis import RedisError

from .limits import BodyLimit
from .store import TaskStore

log = logging.getLogger(__name__)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


class NewTask(BaseModel):
    """The body of POST /tasks."""

    description: Annotated[str, Field(max_length=10_000), AfterValidator(_not_blank)]
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = 1  # strict: neither true nor "1"


def create_app(store: TaskStore) -> FastAPI:
    """The API on top of a store. Whatever is wrong, the answer is JSON with a `detail`."""
    app = FastAPI(title="Orchestrator")
    app.add_middleware(BodyLimit)

    @app.post("/tasks", status_code=201)
    def add_task(task: NewTask) -> dict[str, Any]:
        return store.add(task.description, task.priority)

    @app.get("/tasks/{task_id}")
    def get_task(task_id: str) -> dict[str, Any]:
        task = store.find(task_id)
        if task is None:
            raise HTTPException(404, "there is no such task")
        return task

    @app.get("/health")
    def health() -> dict[str, str]:
        store.ping()
        return {"status": "ok"}

    @app.exception_handler(RedisError)
    def redis_is_away(request: Request, error: RedisError) -> JSONResponse:
        log.warning("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse({"detail": "Redis cannot be used at the moment"}, 503)

    @app.exception_handler(RequestValidationError)
    def input_is_bad(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, and breaks where that is no valid JSON (NaN).
        reasons = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(reasons)}, 422)

    return app
