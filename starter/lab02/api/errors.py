"""Every error becomes an answer in the one shape: {"data": null, "error": {"message": …}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from .store import TaskStore

log = logging.getLogger("uvicorn.error")


def answer_errors(app: FastAPI, store: TaskStore) -> None:
    """Tell the app how to answer each kind of error."""

    @app.exception_handler(NotImplementedError)  # take it away once no TODO raises it any more
    async def open_todo(request: Request, todo: NotImplementedError) -> JSONResponse:
        log.error("%s", todo)
        return failure(501, str(todo))

    # TODO 2: psycopg.OperationalError: 503.  TODO 17: the other connections may be broken, too.
    # TODO 7: NotFailed: 409.
    # TODO 10: bad input, FastAPI's own errors, and faults of ours.


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # TODO 10: this is not the one shape.
    return JSONResponse({"message": message}, status, headers)
