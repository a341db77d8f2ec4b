"""The routes. Each asks the store and puts what it gets into the one shape of all answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import FastAPI, Query

from .errors import answer_errors
from .models import Answer, Health, NewTask, Status, Task, TaskChanges, TaskPage
from .store import Row, TaskStore

MAX_PAGE = 1_000_000_000  # with it, the offset stays far below PostgreSQL's largest number

# TODO 11: what the OpenAPI document says about answers that are errors, by status:
# {404: {"model": Failure, "description": "…"}}. Each goes to a route, as responses=….
BAD_BODY: dict[int, dict[str, Any]] = {}
BAD_INPUT: dict[int, dict[str, Any]] = {}
NOT_FOUND: dict[int, dict[str, Any]] = {}
CONFLICT: dict[int, dict[str, Any]] = {}
FAULTS: dict[int, dict[str, Any]] = {}


def create_app(store: TaskStore) -> FastAPI:
    """The API on this store. The pool is opened when the app starts and closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # TODO 1: what stands before the yield is done at the start, what comes after it at the end.
        yield

    app = FastAPI(title="Tasks", lifespan=lifespan)  # TODO 10: no redirects.  TODO 11: FAULTS
    answer_errors(app, store)

    @app.post("/tasks", status_code=201)
    async def create_task(task: NewTask) -> Answer[Task]:
        raise NotImplementedError("TODO 4 is open: create a task (api/app.py)")

    @app.get("/tasks")
    async def list_tasks(
        page: Annotated[int, Query()] = 1,  # TODO 6: the limits
        limit: Annotated[int, Query()] = 20,
        status: Status | None = None,
    ) -> Answer[TaskPage]:
        raise NotImplementedError("TODO 6 is open: list tasks (api/app.py)")

    @app.get("/tasks/{id}")
    async def show_task(id: UUID) -> Answer[Task]:
        raise NotImplementedError("TODO 5 is open: show a task (api/app.py)")

    @app.put("/tasks/{id}")
    async def change_task(id: UUID, changes: TaskChanges) -> Answer[Task]:
        raise NotImplementedError("TODO 7 is open: change a task (api/app.py)")

    @app.delete("/tasks/{id}")
    async def delete_task(id: UUID) -> Answer[Task]:
        raise NotImplementedError("TODO 8 is open: delete a task (api/app.py)")

    @app.get("/health")
    async def health() -> Answer[Health]:
        raise NotImplementedError("TODO 2 is open: tell whether the API is well (api/app.py)")

    return app


def answer(data: Row) -> dict[str, object]:
    raise NotImplementedError("TODO 2 is open: put data into the one shape (api/app.py)")


def found(task: Row | None) -> Row:
    raise NotImplementedError("TODO 5 is open: answer 404 if there is no task (api/app.py)")
