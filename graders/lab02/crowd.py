"""Many requests at once: how many connections an API opens for them, and whether all are answered.

The answers to its statements are held on the wire, so each connection that it has taken stays in
use. A few questions that need no database then show that it has taken in what it takes in.
"""

from __future__ import annotations

import json

from graders.harness.api import Api, Request
from graders.harness.check import CouldNotGrade
from graders.harness.lab import Lab
from graders.harness.steps import Step
from graders.harness.worker import asks_for_tasks
from graders.lab02 import rows
from graders.lab02.asking import UNKNOWN_ID, expect_status, send, succeeded

MOST = 10  # connections
CROWD = 40  # requests
QUIET = 20  # questions in a row during which it has opened no connection
SLOW = 1.0  # seconds for such a question; some answer one request at a time
FELT = 1.5  # seconds, not scaled: whoever waits for longer may give up waiting
TRIES = 8  # only a busy machine needs more than one


def come_at_once(lab: Lab) -> None:
    """40 requests while no answer of PostgreSQL arrives; then all are let go and answered."""
    api = lab.start_api()
    rows.create(api, {"title": "the first one"})
    _refuse_many(lab, api)
    for attempt in range(TRIES):
        hold = api.wire.hold(_is_held, when="after", times=None)
        began = lab.history.now()
        requests = [_send(api, attempt, number) for number in range(CROWD)]
        lab.tell(f"Sent {CROWD} requests at once, and held what PostgreSQL answered to them.")
        if hold.wait_reached(lab.budgets.work) is None:
            api.answer_of(requests[0])  # or it says what has become of it
            raise lab.finding(
                "request-unanswered", f"{api.name} asks the tasks table for what is requested.",
                f"In {lab.budgets.work:.0f} s no statement of it named the table.",
                api.statement_evidence(), api.log_evidence(),
            )  # fmt: skip
        _expect_few(lab, api)
        early = [request for request in requests if request.over]
        if lab.history.now() - began < FELT:
            _expect_well(api, early)  # who is turned away is told so at once
        hold.release()
        lab.tell("Let all answers go.")
        good = all(succeeded(api.answer_of(request)) for request in requests)
        if good or lab.history.now() - began < FELT:
            _expect_well(api, requests)
            _expect_stored_once(lab, api, requests)
            return
    raise CouldNotGrade("This machine was too busy for 40 requests in a second and a half.")


def _refuse_many(lab: Lab, api: Api) -> None:
    """More requests that come to nothing than it may have connections: none of them keeps one."""
    task = rows.add(lab)
    refused = (
        ("GET", rows.path_of(UNKNOWN_ID), None, 404),
        ("PUT", rows.path_of(UNKNOWN_ID), {"priority": 1}, 404),
        ("DELETE", rows.path_of(UNKNOWN_ID), None, 404),
        ("PUT", rows.path_of(task), {"status": "pending"}, 409),
    )
    for method, path, data, status in refused:
        for _ in range(MOST + 1):
            expect_status(api, api.send(method, path, data), status)
    lab.tell(
        f"Sent {MOST + 1} requests of each kind that finds no task, or may not change it: "
        f"{api.name} refused them all."
    )


def _is_held(step: Step) -> bool:
    return asks_for_tasks(step)


def _send(api: Api, attempt: int, number: int) -> Request:
    if number % 2:
        # A title of its own, also of each attempt: what was stored in the one before stays.
        return api.send("POST", "/tasks", {"title": f"crowd {attempt}-{number:02}"})
    return api.send("GET", "/tasks?limit=5")


def _expect_few(lab: Lab, api: Api) -> None:
    """Its connections are few, once it has opened what it wants to open."""
    quiet, before, crowded = 0, -1, 0
    while quiet < QUIET and crowded < 2:
        there = api.wire.connections
        opened = len(there)
        crowded += opened > MOST  # looked at twice: one may just be about to close
        opening = any(c.step is not None and c.step.kind == "connect" for c in there)
        quiet, before = (quiet + 1, opened) if opened == before and not opening else (0, opened)
        request = api.send("GET", "/no-such-route", told=False)
        api.wait_answer(request, SLOW)
        if not request.over:
            break
    opened = len(api.wire.connections)
    lab.tell(f"Counted the open connections of {api.name}: {opened}.")
    if opened > MOST:
        raise lab.finding(
            "too-many-connections",
            f"{api.name} serves {CROWD} requests at once with at most {MOST} connections; the rest "
            "wait for their turn.",
            f"It had {opened} connections open at one time.",
            api.log_evidence(),
        )


def _expect_well(api: Api, requests: list[Request]) -> None:
    """Each of these was answered as it should be."""
    for request in requests:
        expect_status(api, request, 201 if request.method == "POST" else 200)


def _expect_stored_once(lab: Lab, api: Api, requests: list[Request]) -> None:
    """Each task was stored once, and the API is as well as before."""
    titles = [row["title"] for row in rows.stored(lab).values()]
    for request in requests:
        if request.method == "POST":
            data = json.loads(request.body)
            rows.expect_created(api, request, data)
            if titles.count(data["title"]) != 1:
                raise lab.finding(
                    "stored-twice", f"“{data['title']}” is stored once.",
                    f"It is stored {titles.count(data['title'])} times.",
                    api.exchange_evidence(request),
                )  # fmt: skip
    # It is as well as before: a pool that has lost a connection has none left after a while.
    expect_status(api, send(api, "GET", "/tasks"), 200)
