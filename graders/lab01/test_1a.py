"""Exercise 1a: the orchestrator."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from graders.harness.check import check
from graders.harness.explore import acts
from graders.harness.jobs import subtask_id
from graders.harness.refusal import expect_refused
from graders.lab01 import bad_bodies, outage
from graders.lab01.asking import (
    as_json,
    expect_status,
    post,
    send,
    told,
    wrong_answer,
)
from graders.lab01.early import expect_nothing_on_its_way, post_with_writes_held
from graders.lab01.moments import PostTask
from graders.lab01.stored import (
    expect_accepted,
    expect_created_at,
    expect_jobs,
    expect_parts,
    expect_stored,
    ids_of,
)

ROOT = "accepts_a_task"
UNKNOWN = "6b3f8d52-0000-4000-8000-1c2d3e4f5a6b"  # the id of no task
# A zone 11 hours ahead of UTC, written so that no table of zones is needed.
FAR_AWAY = "AWAY-11"

LOGIN = ["Design the user table", "Write the login endpoint", "Hash and check passwords",
         "Test the login"]  # fmt: skip
API = ["Design the endpoints", "Write the handlers", "Check the input", "Test the endpoints"]


@check("1a", points=4)
def test_accepts_a_task(lab):
    """A posted task is answered with 201, and its hash and its four jobs are in Redis by then.

    What was answered with 201 must not be lost any more: nobody will send it again.
    """
    api = lab.start_api(env={"TZ": FAR_AWAY}, told=f"TZ={FAR_AWAY}, 11 hours ahead of UTC")
    first = {"description": "Translate “naïve” to 日本語", "priority": 7}
    lab.tell("From here on each of its writes was held for a moment, before Redis heard it.")
    began = datetime.now(UTC)
    request, hold = post_with_writes_held(api, first)
    answer = api.answer_of(request)
    lab.tell(f"Sent {request.shown}: it was answered with {answer.status}.")
    expect_status(api, request, 201)
    one = expect_accepted(api, request, began)
    expect_nothing_on_its_way(api, request, one["task_id"])
    hold.release()
    expect_stored(lab, (first, one))
    lab.tell("Held no more of its writes.")

    second = {"description": "mow the lawn"}
    began = datetime.now(UTC)
    two = expect_accepted(api, post(api, second), began)
    expect_stored(lab, (first, one), (second, two))


@check("1a", points=3, needs=[ROOT])
def test_splits_a_task_in_four(lab):
    """A task is split by the words of its description, by the first rule that fits.

    The rules are simple on purpose. What matters is that the answer, the hash and the jobs say the
    same.
    """
    api = lab.start_api()
    cases = [
        ("add a login", LOGIN),
        ("Add AUTH to the shop.", LOGIN),
        ("authentication, please", LOGIN),
        ("write an api", API),
        ("one more Endpoint (a small one)", API),
        ("make it REST", API),
        ("a login for the api", LOGIN),  # the first rule, whatever comes first
        ("the api of the login", LOGIN),
        ("thank the author of the blogin tool", None),
        ("take a rapid interest in the capital", None),
        ("mow the lawn", None),
    ]  # fmt: skip
    jobs = []
    for description, parts in cases:
        if parts is None:
            parts = [f"{word}: {description}" for word in ("Plan", "Build", "Test", "Document")]
        request = post(api, {"description": description, "priority": 3})
        answer = told(api, request)
        if not isinstance(answer.get("task_id"), str):
            raise wrong_answer(api, request, "The answer has a task_id.", "It has none.")
        expect_parts(api, request, answer)
        got = [part["description"] for part in answer["subtasks"]]
        if got != parts:
            raise wrong_answer(
                api, request,
                f"“{description}” is split into: {'; '.join(parts)}.",
                f"It was split into: {'; '.join(got)}.",
            )  # fmt: skip
        jobs += [
            {"task_id": answer["task_id"], "subtask_id": id, "description": part, "priority": 3}
            for id, part in zip(ids_of(answer["task_id"]), parts, strict=True)
        ]
    expect_jobs(lab, jobs)


@check("1a", points=3, needs=[ROOT], workers=2)
def test_tells_how_far_a_task_is(lab):
    """GET /tasks/<id> says how many of the four results are there, and when the task is completed.

    The answer to POST comes long before the work is done, so the client has to ask.
    """
    api = lab.start_api()
    began = datetime.now(UTC)
    data = {"description": "water the plants, and all of “them”", "priority": 4}
    posted = told(api, post(api, data))
    other = told(api, post(api, {"description": "another one"}))
    for task in (posted, other):
        if not isinstance(task.get("task_id"), str):
            raise lab.finding("wrong-answer", "The answer to POST /tasks has a task_id.",
                              "It has none.")  # fmt: skip
    results = [(id, "failed" if n == 1 else "completed")
               for n, id in enumerate(ids_of(posted["task_id"]))]  # fmt: skip
    results.insert(1, (ids_of(other["task_id"])[0], "completed"))  # of no business of the first
    _expect_progress(lab, api, posted, data, 0, began)
    done = 0
    for id, status in [results[0], results[1], results[4], results[2], results[3]]:
        result = {
            "subtask_id": id, "task_id": id.rpartition("-")[0], "status": status,
            "worker_id": "worker-1", "completed_at": "2026-01-31T09:30:00+00:00",
            "description": "a part",
        }  # fmt: skip
        lab.ask(lambda r, k=f"result:{id}", v=result: r.set(k, json.dumps(v), ex=86_400))
        done += id.startswith(posted["task_id"])
        whose = "the task" if id.startswith(posted["task_id"]) else "the other task"
        lab.tell(f"Stored a result for {id[-2:]} of {whose}, with the status “{status}”.")
        _expect_progress(lab, api, posted, data, done, began)
    request = send(api, "GET", f"/tasks/{UNKNOWN}")
    expect_status(api, request, 404)
    told(api, request)
    second = lab.start_api(told="a second orchestrator on the same Redis")
    _expect_progress(lab, second, posted, data, done, began)
    request = post(second, data)
    id = told(second, request).get("task_id")
    if id in (posted["task_id"], other["task_id"]):
        raise wrong_answer(
            second, request, "Each task has an id of its own, whoever has added it, and also "
            "if the description is the same.",
            f"{id} is the id of an earlier task.",
        )  # fmt: skip


def _expect_progress(lab, api, posted, data, done, began):
    """GET of the task says that so many results are there. Raises a Finding."""
    request = send(api, "GET", f"/tasks/{posted['task_id']}")
    expect_status(api, request, 200)
    answer = told(api, request)
    wanted = {
        "task_id": posted["task_id"], **data, "results": done,
        "status": "completed" if done == 4 else "queued",
    }  # fmt: skip
    for name, value in wanted.items():
        got = answer.get(name)
        if got != value or type(got) is not type(value):
            raise wrong_answer(
                api, request,
                f"With {done} of the four results there, {name} is {as_json(value)} in the answer "
                "to GET.",
                f"It is {as_json(got)}." if name in answer else "There is no such field.",
            )  # fmt: skip
    expect_created_at(api, request, answer, began)
    if answer["created_at"] != posted.get("created_at"):
        raise wrong_answer(
            api, request, "The created_at in the answer to GET is that in the answer to POST: "
            f"{posted.get('created_at')}.", f"It is {answer['created_at']}.",
        )  # fmt: skip
    expect_parts(api, request, answer)
    if [p["description"] for p in answer["subtasks"]] != [
        p.get("description") for p in posted.get("subtasks", [])
    ]:
        raise wrong_answer(
            api, request, "The subtasks in the answer to GET are those in the answer to POST.",
            "They have other descriptions.",
        )  # fmt: skip


@check("1a", points=2)
def test_answers_health_truly(lab):
    """GET /health says whether Redis can be used, and not only that the API is running.

    Who relies on it would otherwise send every task to an API that can store none. An API that is
    started before its Redis waits for it: a deploy cannot choose the order.
    """
    api = outage.start_without_redis(lab)
    outage.expect_unavailable(api, ("GET", "/health", None))
    outage.end(api)
    outage.expect_well_again(api, "GET", "/health", None, 200)
    _expect_healthy(api)
    outage.refuse(api)
    outage.expect_unavailable(api, ("GET", "/health", None))
    outage.end(api)
    outage.expect_well_again(api, "GET", "/health", None, 200)
    _expect_healthy(api)


def _expect_healthy(api):
    request = send(api, "GET", "/health")
    answer = api.answer_of(request)
    if answer.status == 503:
        raise api.lab.finding(
            "health-untrue", "GET /health is answered with 200 while Redis can be used.",
            "It was answered with 503.", api.exchange_evidence(request), api.statement_evidence(),
            api.log_evidence(),
        )  # fmt: skip
    expect_status(api, request, 200)
    if told(api, request).get("status") != "ok":
        raise wrong_answer(api, request, "The answer to GET /health has the status “ok”.",
                           "It has not.")  # fmt: skip


@check("1a", points=4, needs=[ROOT])
def test_refuses_bad_input(lab):
    """Input that cannot be used is refused with 4xx, which names the field; nothing is stored.

    What the API lets through, a worker has to deal with, where nobody is left to complain to.
    """
    api = lab.start_api()
    step = len(lab.steps)
    for count, case in enumerate([*bad_bodies.bad(), *bad_bodies.too_large()], 1):
        request = api.send("POST", "/tasks", body=case.body, headers=case.headers)
        answer = api.wait_answer(request)
        # Who answers 413 at once and hangs up has refused it, too, although the answer may be lost.
        if answer is not None or len(case.body) < bad_bodies.TOO_MUCH \
                or "broke off" not in request.problem:  # fmt: skip
            _expect_refused(lab, api, case, request)
        lab.steps[step:] = [f"Posted {count} bodies that cannot be used; each was refused."]
    tasks = []
    for data in bad_bodies.good():
        began = datetime.now(UTC)
        tasks.append((data, expect_accepted(api, post(api, data), began)))
    expect_stored(lab, *tasks)
    stored = lab.ask(lambda r: len(r.keys("task:*")))
    if stored != len(tasks):
        raise lab.finding(
            "refused-but-stored", "Of what was refused nothing is stored.",
            f"There are the hashes of {stored} tasks, and {len(tasks)} were accepted.",
        )  # fmt: skip


def _expect_refused(lab, api, case, request):
    """It was answered with 4xx and JSON that names the field, and nothing is stored."""
    lab.tell(f"Posted a task with {case.what}.")
    answer = api.answer_of(request)
    expected = f"POST /tasks with {case.what} is refused with a status 4xx."
    api.expect_no_server_error(request, expected)
    if not 400 <= answer.status < 500:
        raise lab.finding(
            "bad-input-accepted", expected, f"It was answered with status {answer.status}.",
            api.exchange_evidence(request),
        )  # fmt: skip
    if lab.ask(lambda r: r.keys("task:*") or r.exists("work_queue")):
        raise lab.finding(
            "refused-but-stored", f"Of POST /tasks with {case.what} nothing is stored.",
            f"It was answered with {answer.status}, and there is something in Redis all the same.",
            api.exchange_evidence(request), api.statement_evidence(),
        )  # fmt: skip
    if answer.json is None:
        raise wrong_answer(
            api, request,
            f"The answer to POST /tasks with {case.what} is JSON, which says what is wrong.",
            "It is no JSON.",
        )  # fmt: skip
    if case.field and case.field not in answer.body.decode("utf-8", "replace").lower():
        raise wrong_answer(
            api, request,
            f"The answer to POST /tasks with {case.what} names the field, “{case.field}”.",
            "This word does not stand in it.",
        )  # fmt: skip


@check("1a", points=3, needs=[ROOT], workers=3)
def test_survives_without_redis(lab):
    """While Redis is away each route answers 503 in time, and all is well once it is back.

    Redis is restarted for every upgrade. An API that hangs then takes its clients with it, and one
    that stays broken wakes somebody up at night.
    """
    api = lab.start_api()
    data = {"description": "check the backups", "priority": 2}
    began = datetime.now(UTC)
    known = expect_accepted(api, post(api, data), began)
    path = f"/tasks/{known['task_id']}"
    for happens in (outage.refuse, outage.stall):
        happens(api)
        outage.expect_unavailable(
            api, ("POST", "/tasks", {"description": "lost in between"}), ("GET", path, None),
            ("GET", "/health", None),
        )  # fmt: skip
        outage.end(api)
        outage.expect_well_again(api, "GET", path, None, 200)
        began = datetime.now(UTC)
        request = outage.expect_well_again(api, "POST", "/tasks", data, 201)
        answer = expect_accepted(api, request, began)
        queued = [subtask_id(raw) for raw in lab.queued()]
        own = [id for id in queued if id in ids_of(answer["task_id"])]
        if own != ids_of(answer["task_id"]):
            raise lab.finding(
                "not-well-again",
                "A task that is accepted after Redis has come back has its four jobs in the queue, "
                "once each.", f"Of its jobs there are {len(own)}.",
                api.exchange_evidence(request), api.statement_evidence(),
            )  # fmt: skip
    outage.cut_off_while_storing(api)


@check("1a", points=2, needs=[ROOT], workers=3)
def test_starts_and_stops_as_told(lab):
    """With a port that is none the API refuses to start; SIGTERM ends it with status 0.

    Who starts it has to be told what is wrong with the configuration, and who stops it must not
    take that for a crash.
    """
    api = lab.start_api()
    cases = (("PORT is “http”, which is no number", "PORT", "http"),
             ("REDIS_PORT is 163790, above 65535", "REDIS_PORT", "163790"))  # fmt: skip
    refused = [
        (what, name, lab.start_api(ready=False, env={name: value}, told=what))
        for what, name, value in cases
    ]
    for what, name, each in refused:
        expect_refused(each, what, [name], code="started-misconfigured")
    expect_status(api, send(api, "GET", "/health"), 200)
    api.terminate()
    api.expect_exit(code=0)


@check("1a", points=6, needs=[ROOT], explores=True)
def test_writes_all_or_nothing(lab):
    """Killed at any moment, the orchestrator leaves a whole task in Redis, or nothing.

    A task of which two jobs are in the queue is never done, and nobody is told.
    """
    acts.explore(
        lab, acts.CRASH, PostTask(),
        "Whenever the orchestrator is killed (SIGKILL), the hash of the task and its four jobs "
        "are all there, or none of them is.",
    )
