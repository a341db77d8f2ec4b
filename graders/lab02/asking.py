"""Requests as the checks of lab 02 make them, and what is expected of an answer's status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from graders.harness.api import Answer, Api, Request

UNKNOWN_ID = "6b3f8d52-0000-4000-8000-1c2d3e4f5a6b"  # of no task in any check

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def words(api: Api, request: Request) -> str:
    """The request in a line, its task by its label: PUT /tasks/T1 {"priority": 3}."""
    return _ID.sub(lambda id: api.lab.label(id[0]).replace("task ", ""), request.shown)


def send(api: Api, method: str, path: str, data: Any = None, **more: Any) -> Request:
    """Send a request and wait for its answer, whatever it is; both are told as a step."""
    request = api.send(method, path, data, **more)
    answer = api.answer_of(request)
    api.lab.tell(f"Sent {words(api, request)}: it was answered with {answer.status}.")
    return request


def expect_status(
    api: Api, request: Request, status: int, *, why: str = "", what: str = ""
) -> None:
    """The request was answered with this status. Raises a Finding.

    `why` is a clause for it: “T1 has not failed”. `what` says what a long request is about.
    """
    answer = api.answer_of(request)
    asked = f"{request.method} with {what}" if what else words(api, request)
    expected = f"{asked} is answered with status {status}{f': {why}' if why else ''}."
    if answer.status == status:
        return
    api.expect_no_server_error(request, expected)
    raise api.lab.finding(
        "wrong-status-code", expected, f"The status was {answer.status}.",
        api.exchange_evidence(request),
    )  # fmt: skip


def expect_refused(api: Api, request: Request, what: str) -> None:
    """The request was answered with 4xx; `what` says what it was: “a title that is blank”."""
    answer = api.answer_of(request)
    expected = f"{request.method} with {what} is refused with a status 4xx."
    api.expect_no_server_error(request, expected)
    if answer.status >= 400:
        return
    raise api.lab.finding(
        "bad-input-accepted", expected, f"It was answered with status {answer.status}.",
        api.exchange_evidence(request),
    )  # fmt: skip


def expect_failure(api: Api, request: Request) -> None:
    """The request, which nobody could carry out, was answered with 5xx. Raises a Finding."""
    answer = api.answer_of(request)
    if answer.status < 500:
        raise api.lab.finding(
            "wrong-status-code",
            f"{words(api, request)}, which cannot be done, is answered with 5xx.",
            f"The status was {answer.status}.", api.exchange_evidence(request),
        )  # fmt: skip


def expect_nothing_told(api: Api, request: Request, inside: Mapping[str, str]) -> None:
    """The answer to what went wrong tells the client nothing of the inside. Raises a Finding.

    `inside` says what it may not hold, and by which text that is known: "a traceback".
    """
    answer = api.answer_of(request)
    body = answer.body.decode("utf-8", "backslashreplace")
    for what, text in inside.items():
        if text in body:
            raise api.lab.finding(
                "error-shown",
                f"The answer to {words(api, request)} says that something went wrong, and the "
                "error itself goes to the log.",
                f"The answer holds {what}.",
                api.exchange_evidence(request),
            )


def data_of(api: Api, request: Request) -> Any:
    """What an answer that tells of success has as its data. Raises a Finding."""
    told = api.answer_of(request).json
    if isinstance(told, dict) and told.get("data") is not None:
        return told["data"]
    raise api.lab.finding(
        "wrong-answer",
        f"The answer to {words(api, request)} is a JSON object that has something in “data”.",
        "It is a JSON object without." if isinstance(told, dict) else "It is no JSON object.",
        api.exchange_evidence(request),
    )


def succeeded(answer: Answer) -> bool:
    """Whether its status is 2xx."""
    return 200 <= answer.status < 300
