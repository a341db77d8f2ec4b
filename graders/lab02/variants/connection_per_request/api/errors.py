"""Every error becomes an answer in the one shape: {"data": null, "error": {"message": …}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .store import NotFailed, TaskStore

log = logging.getLogger("uvicorn.error")


def answer_errors(app: FastAPI, store: TaskStore) -> None:
    """Tell the app how to answer each kind of error."""

    @app.exception_handler(HTTPException)  # also FastAPI's own: no such route, no such method
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return failure(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def bad_input(request: Request, error: RequestValidationError) -> JSONResponse:
        return failure(422, "; ".join(_in_words(each) for each in error.errors()))

    @app.exception_handler(NotFailed)
    async def conflict(request: Request, error: NotFailed) -> JSONResponse:
        return failure(409, "only a task that has failed can be put back to pending")

    @app.exception_handler(psycopg.OperationalError)  # no connection in time, or it broke
    async def database_gone(request: Request, error: psycopg.OperationalError) -> JSONResponse:
        log.warning("503: %s", " ".join(str(error).split()))
        return failure(503, "the database did not answer", {"Retry-After": "1"})

    @app.exception_handler(Exception)  # a fault of ours; the server logs its traceback
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return failure(500, "the server made a mistake")


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # A message may quote what the client sent, and not all of that can be written as UTF-8.
    message = message.encode(errors="backslashreplace").decode()
    return JSONResponse({"data": None, "error": {"message": message}}, status, headers)


def _in_words(error: Mapping[str, Any]) -> str:
    """Pydantic's message, with the name of the field that it is about."""
    fields = [part for part in error["loc"][1:] if isinstance(part, str)]
    return ": ".join([*fields, error["msg"].removeprefix("Value error, ")])
