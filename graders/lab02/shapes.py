"""The one shape of all answers: {"data": …, "error": null} or {"data": null, "error": {…}}."""

from __future__ import annotations

from graders.harness.api import Api, Request
from graders.lab02.asking import succeeded, words

RIGHT = '{"data": …, "error": null}'
WRONG = '{"data": null, "error": {"message": "…"}}'


def expect_shape(api: Api, request: Request) -> None:
    """The answer has the shape that belongs to its status. Raises a Finding."""
    answer = api.answer_of(request)
    good = succeeded(answer)
    problem = _problem(answer.json, good)
    kind = next((v for k, v in answer.headers.items() if k.lower() == "content-type"), "")
    if not problem and "json" not in kind.lower():
        problem = f"It is JSON, and its Content-Type says “{kind}”."
    if problem:
        raise api.lab.finding(
            "wrong-shape",
            f"The answer to {words(api, request)}, with status {answer.status}, has the shape "
            f"{RIGHT if good else WRONG}.",
            problem,
            api.exchange_evidence(request),
        )


def _problem(told: object, good: bool) -> str:
    """What is wrong with an answer's shape, in a sentence; "" if nothing is."""
    if not isinstance(told, dict):
        return "It is no JSON object."
    for key in ("data", "error"):
        if key not in told:
            return f"It has no “{key}”."
    if good:
        if told["error"] is not None:
            return "Its “error” is not null."
        return "" if told["data"] is not None else "Its “data” is null."
    if told["data"] is not None:
        return "Its “data” is not null."
    error = told["error"]
    if not isinstance(error, dict):
        return "Its “error” is no JSON object."
    message = error.get("message")
    if not isinstance(message, str) or not message.strip():
        return "Its “error” has no text in “message”."
    return ""
