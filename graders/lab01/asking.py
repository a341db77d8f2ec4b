"""Requests as the checks of the orchestrator make them, and what is expected of their answers."""

from __future__ import annotations

import json
from typing import Any

from graders.harness import history as h
from graders.harness.api import Answer, Api, Request
from graders.harness.report.text import cut

PAUSE = 0.05  # seconds between two questions whether it is well; only so as not to flood it


def post(api: Api, data: dict[str, Any]) -> Request:
    """POST /tasks with this body; it is answered with 201. Raises a Finding."""
    request = send(api, "POST", "/tasks", data)
    expect_status(api, request, 201)
    return request


def send(api: Api, method: str, path: str, data: Any = None, **more: Any) -> Request:
    """Send a request and wait for its answer, whatever it is; both are told as a step."""
    request = api.send(method, path, data, **more)
    answer = api.answer_of(request)
    api.lab.tell(f"Sent {request.shown}: it was answered with {answer.status}.")
    return request


def expect_status(api: Api, request: Request, status: int) -> None:
    """The request was answered with this status. Raises a Finding."""
    answer = api.answer_of(request)
    if answer.status == status:
        return
    expected = f"{request.shown} is answered with status {status}."
    api.expect_no_server_error(request, expected)
    raise api.lab.finding(
        "wrong-status-code", expected, f"The status was {answer.status}.",
        api.exchange_evidence(request),
    )  # fmt: skip


def told(api: Api, request: Request) -> dict[str, Any]:
    """The JSON object that an answer is. Raises a Finding."""
    found = api.answer_of(request).json
    if isinstance(found, dict):
        return found
    raise api.lab.finding(
        "wrong-answer", f"The answer to {request.method} {request.path} is a JSON object.",
        "It is none.", api.exchange_evidence(request),
    )  # fmt: skip


def as_json(value: Any) -> str:
    """A value as it stands in an answer, cut where it is long."""
    return cut(json.dumps(value, ensure_ascii=False), 80)


def wrong_answer(api: Api, request: Request, expected: str, seen: str) -> Exception:
    """The finding that an answer does not say what it should."""
    return api.lab.finding("wrong-answer", expected, seen, api.exchange_evidence(request))


def ask_until(
    api: Api, method: str, path: str, data: Any, status: int, timeout: float
) -> Request:
    """Ask until the answer has this status, or one that is not 503, in the boot budget.

    `timeout` (seconds) bounds each wait for an answer.
    """
    lab = api.lab
    left = lab.budgets.boot
    while True:
        began = lab.history.now()
        request = api.send(method, path, data, timeout=timeout)
        answer: Answer = api.answer_of(request)
        if answer.status in (status,) or answer.status != 503 or left <= 0 or lab.session.stopping:
            lab.tell(f"Sent {request.shown}: it was answered with {answer.status}.")
            return request
        lab.history.wait(lambda e: e.kind == h.EXIT, PAUSE, len(lab.history))
        left -= max(lab.history.now() - began, PAUSE)
