"""A deploy, or a restart of the database, while a request is being carried out."""

from __future__ import annotations

import contextlib
import http.client

from graders.harness.api import Api, Request
from graders.harness.lab import Lab
from graders.harness.steps import Hold, Step
from graders.harness.worker import asks_for_tasks
from graders.lab02 import outage, rows
from graders.lab02.asking import expect_status, words
from graders.lab02.shapes import expect_shape

MORE = 14  # requests; a pool may have 10 connections
QUIET = 5  # questions that need no database: when they are answered, the rest was taken in
SLOW = 0.5  # seconds for such a question; some answer one request at a time


def is_insert(step: Step) -> bool:
    """Whether a step stores a task."""
    return asks_for_tasks(step) and "insert" in step.words.lower()


def cut_off_while_storing(lab: Lab, api: Api) -> None:
    """All connections are cut when PostgreSQL has done an INSERT and the API has not heard of it.

    It may be answered with 503, as nobody knows whether the task is stored, or rightly. It may not
    be stored twice.
    """
    title = "whether it was stored"
    request, _ = _held_post(lab, api, title)
    outage.cut(api)
    answer = api.answer_of(request)
    lab.tell(f"The request was answered with {answer.status}.")
    count = _count(lab, title)
    expected = (
        f"{words(api, request)}, whose connection was lost on the way, is answered with 503, or "
        "with 201 and one row."
    )
    if count > 1:
        raise lab.finding(
            "stored-twice", f"“{title}” is stored once.", f"It is stored {count} times.",
            api.exchange_evidence(request), api.statement_evidence(),
        )  # fmt: skip
    if answer.status not in (201, 503):
        raise lab.finding(
            "outage-not-told", expected, f"It was answered with {answer.status}.",
            api.exchange_evidence(request), api.log_evidence(20),
        )  # fmt: skip
    if answer.status == 201 and not count:
        raise lab.finding(
            "row-wrong", expected, "It was answered with 201, and there is no row.",
            api.exchange_evidence(request), api.statement_evidence(),
        )  # fmt: skip
    expect_shape(api, request)
    outage.expect_well_again(api, "GET", "/tasks", status=200)


def stop_while_storing(lab: Lab) -> None:
    """SIGTERM while the answer to an INSERT is on its way; a second client keeps its connection."""
    api = lab.start_api()
    title = "the last one before the deploy"
    with contextlib.closing(_kept_alive(api)):
        lab.tell("A client asked for GET /health, and kept its connection open.")
        request, hold = _held_post(lab, api, title, times=None)
        waiting = _more_posts(lab, api)
        api.terminate()
        hold.release()
        lab.tell("Let PostgreSQL's answers go.")
        answer = api.wait_answer(request)
        if answer is None:
            raise lab.finding(
                "request-dropped",
                f"{words(api, request)}, which was in flight when SIGTERM came, is answered.",
                f"No answer came: {request.problem}.",
                api.statement_evidence(), api.log_evidence(20),
            )  # fmt: skip
        expect_status(api, request, 201)
        rows.expect_created(api, request, {"title": title})
        for each in waiting:
            # Who takes one request after the other may not have taken it in at all.
            if api.wait_answer(each) is not None:
                _expect_done(api, each)
        api.expect_exit(code=0)


def _more_posts(lab: Lab, api: Api) -> list[Request]:
    """POST more tasks than it may have connections, so that some wait for one.

    Returns when the API has taken them in, as far as it takes several.
    """
    sent = [api.send("POST", "/tasks", {"title": f"one of many {n}"}) for n in range(MORE)]
    lab.tell(f"Sent {MORE} more such requests, and held the answers to them as well.")
    for _ in range(QUIET):
        question = api.send("GET", "/no-such-route", told=False)
        api.wait_answer(question, SLOW)
        if not question.over:
            break
    return sent


def _expect_done(api: Api, request: Request) -> None:
    """A request that was in flight at SIGTERM, and is answered, was carried out."""
    answer = api.answer_of(request)
    if answer.status != 201:
        raise api.lab.finding(
            "request-dropped",
            f"{words(api, request)}, which was in flight when SIGTERM came, is carried out.",
            f"It was answered with {answer.status}.",
            api.exchange_evidence(request), api.statement_evidence(), api.log_evidence(20),
        )  # fmt: skip


def _held_post(
    lab: Lab, api: Api, title: str, times: int | None = 1
) -> tuple[Request, Hold]:
    """POST a task, and hold PostgreSQL's answer to the INSERT (and to `times` in all)."""
    hold = api.wire.hold(is_insert, when="after", times=times)
    request = api.send("POST", "/tasks", {"title": title})
    lab.tell(f"Sent {words(api, request)}, and held PostgreSQL's answer to the INSERT.")
    api.expect_held(
        hold, request, f"{words(api, request)} makes {api.name} INSERT a row into tasks.",
        "No such statement came.",
    )  # fmt: skip
    return request, hold


def _kept_alive(api: Api) -> http.client.HTTPConnection:
    """A client's connection that has had an answer and stays open."""
    client = http.client.HTTPConnection("127.0.0.1", api.port, timeout=api.lab.budgets.work)
    client.request("GET", "/health")
    client.getresponse().read()
    return client


def _count(lab: Lab, title: str) -> int:
    return lab.sql("SELECT count(*) AS n FROM tasks WHERE title = %s", (title,))[0]["n"]
