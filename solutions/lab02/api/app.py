"""The routes. Each asks the store and puts what it gets into the one shape of all answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, HTTPException, Query

from .errors import answer_errors
from .models import Answer, Failure, Health, NewTask, Status, Task, TaskChanges, TaskPage
from .store import Row, TaskStore

MAX_PAGE = 1_000_000_000  # with it, the offset stays far below PostgreSQL's largest number

BAD_BODY = {400: {"model": Failure, "description": "The body cannot be read"}}
BAD_INPUT = {422: {"model": Failure, "description": "The input is refused"}}
NOT_FOUND = {404: {"model": Failure, "description": "There is no such task"}}
CONFLICT = {409: {"model": Failure, "description": "The task has not failed"}}
FAULTS = {
    500: {"model": Failure, "description": "A fault of the server"},
    503: {"model": Failure, "description": "The database did not answer"},
}


def create_app(store: TaskStore) -> FastAPI:
    """The API on this store. The pool is opened when the app starts and closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with store.pool:
            yield

    app = FastAPI(
        title="Tasks",
        lifespan=lifespan,
        responses=FAULTS,
        redirect_slashes=False,  # a redirect would be an answer in another shape
    )
    answer_errors(app, store)

    @app.post("/tasks", status_code=201, responses=BAD_BODY | BAD_INPUT)
    async def create_task(task: NewTask) -> Answer[Task]:
        return answer(await store.add(task))

    @app.get("/tasks", responses=BAD_INPUT)
    async def list_tasks(
        page: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        status: Status | None = None,
    ) -> Answer[TaskPage]:
        tasks, total = await store.page(page, limit, status)
        return answer({"tasks": tasks, "total": total, "page": page, "limit": limit})

    @app.get("/tasks/{id}", responses=BAD_INPUT | NOT_FOUND)
    async def show_task(id: UUID) -> Answer[Task]:
        return answer(found(await store.get(id)))

    @app.put("/tasks/{id}", responses=BAD_BODY | BAD_INPUT | NOT_FOUND | CONFLICT)
    async def change_task(id: UUID, changes: TaskChanges) -> Answer[Task]:
        return answer(found(await store.change(id, changes)))

    @app.delete("/tasks/{id}", responses=BAD_INPUT | NOT_FOUND)
    async def delete_task(id: UUID) -> Answer[Task]:
        return answer(found(await store.delete(id)))

    @app.get("/health")
    async def health() -> Answer[Health]:
        await store.ping()
        return answer({"status": "ok"})

    return app


def answer(data: Row) -> dict[str, object]:
    return {"data": data, "error": None}


def found(task: Row | None) -> Row:
    if task is None:
        raise HTTPException(404, "there is no such task")
    return task
