"""PostgreSQL goes away from an API, and comes back."""

from __future__ import annotations

from typing import Any

from graders.harness import history as h
from graders.harness.api import Answer, Api, Request
from graders.harness.check import Finding
from graders.harness.lab import Lab
from graders.harness.results import Evidence
from graders.lab02.asking import data_of, expect_nothing_told, send, words
from graders.lab02.shapes import expect_shape

PAUSE = 0.05  # seconds between two questions whether it is well; only so as not to flood it


def begin(api: Api) -> None:
    """From now on PostgreSQL is away: connections are cut, new ones are refused."""
    api.wire.refuse()
    api.wire.cut()
    api.lab.tell(f"PostgreSQL went away from {api.name}: connections cut, new ones refused.")


def end(api: Api) -> None:
    """PostgreSQL is there again."""
    api.wire.refuse(False)
    api.lab.tell("PostgreSQL was there again.")


def cut(api: Api) -> None:
    """PostgreSQL is restarted so quickly that nobody is refused."""
    api.wire.cut()
    api.lab.tell(f"Cut all connections of {api.name}; it can connect again at once.")


def start_without_database(lab: Lab) -> Api:
    """Start an API whose database is away; its first answer to GET /health is 503."""
    api = lab.start_api(ready=False, told="its database is away")
    api.wire.refuse()
    api.wire.cut()  # nobody has connected yet, or it is as if nobody had
    answer = api.first_answer(
        f"{api.name}, whose database is away, starts and answers GET /health with 503.",
        api.statement_evidence, api.log_evidence,
    )  # fmt: skip
    lab.tell(f"Asked {api.name} for GET /health: it was answered with {answer.status}.")
    if answer.status != 503:
        raise _untrue(api, f"GET /health -> {answer.shown}", 503, answer)
    return api


def expect_health(api: Api, status: int) -> None:
    """GET /health is answered so; 200 within the boot budget, 503 at once."""
    request = send(api, "GET", "/health") if status == 503 else _ask_until(
        api, "GET", "/health", None, status
    )  # fmt: skip
    answer = api.answer_of(request)
    if answer.status != status:
        raise _untrue(api, f"{words(api, request)} -> {answer.shown}", status, answer)
    if status == 200:
        _expect_asked(api)


def _expect_asked(api: Api) -> None:
    """For GET /health the API asks PostgreSQL: that a port is open, or was, proves nothing."""
    since = len(api.lab.history)
    request = send(api, "GET", "/health")
    api.answer_of(request)
    if not any(step.kind in ("query", "check") for step in api.steps(since=since)):
        raise api.lab.finding(
            "health-untrue", "For GET /health the API asks PostgreSQL, which has to answer.",
            f"It was answered with {api.answer_of(request).status}, and {api.name} had asked "
            "PostgreSQL nothing meanwhile.",
            api.exchange_evidence(request), api.statement_evidence(),
        )  # fmt: skip


def _untrue(api: Api, told: str, status: int, answer: Answer) -> Finding:
    """The finding that GET /health is not answered with this status."""
    away = status == 503
    return api.lab.finding(
        "health-untrue" if away else "not-well-again",
        f"GET /health is answered with {status} while the database "
        f"{'is away' if away else 'can be used'}.",
        f"It was answered with {answer.status}"
        + ("." if away else f", {api.lab.budgets.boot:.0f} s after it was there again."),
        Evidence("The request and its answer", (told,)),
        api.statement_evidence(), api.log_evidence(),
    )  # fmt: skip


def expect_unavailable(api: Api, *requests: tuple[str, str, Any]) -> list[Request]:
    """Each of these requests, sent at once, is answered with 503, within the work budget."""
    sent = [api.send(*request) for request in requests]
    for request in sent:
        answer = api.answer_of(request)
        api.lab.tell(f"Sent {words(api, request)}: it was answered with {answer.status}.")
        if answer.status != 503:
            raise api.lab.finding(
                "outage-not-told",
                f"While the database is away, {words(api, request)} is answered with 503.",
                f"It was answered with {answer.status}.",
                api.exchange_evidence(request), api.log_evidence(20),
            )  # fmt: skip
        expect_shape(api, request)
        password = api.lab.database.worker_password
        expect_nothing_told(
            api, request, {"the database's password": password, "a traceback": "Traceback"}
        )
    return sent


def expect_well_again(api: Api, method: str, path: str, data: Any = None, *, status: int) -> Any:
    """This request is answered so again, within the boot budget; returns the answer's data.

    Until then it may be answered with 503.
    """
    request = _ask_until(api, method, path, data, status)
    answer = api.answer_of(request)
    if answer.status == status:
        return data_of(api, request)
    raise api.lab.finding(
        "not-well-again",
        f"Once the database is there again, {words(api, request)} is answered with {status}, "
        "without a restart of the API.",
        f"{api.lab.budgets.boot:.0f} s later it was still answered with {answer.status}."
        if answer.status == 503 else f"It was answered with {answer.status}.",
        api.exchange_evidence(request), api.statement_evidence(), api.log_evidence(20),
    )  # fmt: skip


def _ask_until(api: Api, method: str, path: str, data: Any, status: int) -> Request:
    """Ask until the answer has this status, or one that is not 503, in the boot budget."""
    lab = api.lab
    left = lab.budgets.boot
    while True:
        began = lab.history.now()
        request = api.send(method, path, data)
        answer: Answer = api.answer_of(request)
        if answer.status != 503 or left <= 0 or lab.session.stopping:
            lab.tell(f"Sent {words(api, request)}: it was answered with {answer.status}.")
            return request
        lab.history.wait(lambda e: e.kind == h.EXIT, PAUSE, len(lab.history))
        left -= max(lab.history.now() - began, PAUSE)
