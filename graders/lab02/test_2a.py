"""Exercise 2a: the API. Tasks are created, shown, listed, changed and deleted."""

from __future__ import annotations

from graders.harness.check import check
from graders.lab02 import bad_input, crowd, listing, outage, races, rows
from graders.lab02.asking import (
    UNKNOWN_ID,
    expect_failure,
    expect_nothing_told,
    expect_refused,
    expect_status,
    send,
)
from graders.lab02.refusal import expect_refusal
from graders.lab02.shapes import expect_shape

ROOT = "creates_a_task"


@check("2a", points=5)
def test_creates_a_task(lab):
    """POST /tasks stores a task and answers 201 with it.

    This is what the API is for. Every other check of it needs this one.
    """
    api = lab.start_api()
    rows.create_in_turn(
        api,
        {"title": "count the votes", "description": "of both towns", "type": "email",
         "priority": 7},
        {"title": "sort the mail"},
    )  # fmt: skip


@check("2a", points=3, needs=[ROOT])
def test_shows_a_task(lab):
    """GET /tasks/{id} shows the task as it is now; an unknown id is answered with 404.

    Whoever has added a task asks by its id what has become of it.
    """
    api = lab.start_api()
    pending = rows.add(lab)
    for task in (pending, rows.add(lab, "processing", "worker-3"), rows.add(lab, "failed")):
        rows.show(api, task)
    rows.set_status(lab, pending, "completed", "worker-5")
    rows.show(api, pending)
    request = send(api, "GET", rows.path_of(UNKNOWN_ID))
    expect_status(api, request, 404, why="no task has this id")


@check("2a", points=4, needs=[ROOT])
def test_lists_newest_first(lab):
    """GET /tasks lists the tasks page by page, newest first, and says how many there are.

    Without an order the database may return any row: a task stands on two pages, another on none.
    """
    lab.use_no_index()  # or an order that nobody has asked for could come from the index
    tasks = listing.fill(lab, 30, same=range(8, 20))
    api = lab.start_api()
    listing.expect_page(api, tasks)
    listing.expect_page(api, tasks, page=2)
    listing.expect_page(api, tasks, page=1, limit=100)
    listing.expect_page(api, tasks, page=5, limit=20)
    listing.expect_each_once(api, tasks, limit=7)
    listing.expect_each_once(api, tasks, limit=4)


@check("2a", points=2, needs=["lists_newest_first"])
def test_filters_by_status(lab):
    """GET /tasks?status=failed lists the failed tasks only, and counts only them.

    A person who looks for what went wrong does not want to page through what went well.
    """
    tasks = listing.fill(lab, 9, same=range(1, 1))
    chosen = {"failed": tasks[1:8:2], "processing": tasks[2:3], "completed": []}
    for status, those in chosen.items():
        lab.sql(
            "UPDATE tasks SET status = %s WHERE id = ANY(%s::uuid[])",
            (status, [task["id"] for task in those]),
        )
        lab.tell(f"Made {len(those)} of them “{status}”.")
    chosen["pending"] = [t for t in tasks if not any(t in each for each in chosen.values())]
    api = lab.start_api()
    for status, those in chosen.items():
        listing.expect_page(api, those, status=status)
    listing.expect_page(api, chosen["failed"], page=2, limit=3, status="failed")


@check("2a", points=4, needs=[ROOT])
def test_changes_a_task(lab):
    """PUT /tasks/{id} changes what it names and nothing else, and sets updated_at.

    Two people who change two things of a task must not undo each other's change.
    """
    task, other = rows.add(lab, "processing", "worker-3"), rows.add(lab)
    api = lab.start_api()
    for changes in (
        {"priority": 8},
        {"priority": 0},
        {"title": "call the printer"},
        {"description": "before noon"},
        {"title": "call both printers", "description": "", "priority": 1},
        {"description": None},
    ):
        rows.change(api, task, changes, untouched=other)
    request = send(api, "PUT", rows.path_of(UNKNOWN_ID), {"priority": 1})
    expect_status(api, request, 404, why="no task has this id")
    races.change_while_another_changes(lab, api)


@check("2a", points=3, needs=["changes_a_task"])
def test_requeues_only_failed_tasks(lab):
    """A failed task can be put back to pending; any other change of a status is refused.

    A task that is being worked on, or is done, must not be done a second time because somebody has
    pressed a button twice. It is 409 for a task that has not failed.
    """
    failed = rows.add(lab, "failed")
    others = [rows.add(lab), rows.add(lab, "processing"), rows.add(lab, "completed")]
    left = rows.add(lab, "failed")
    api = lab.start_api()
    rows.change(api, failed, {"status": "pending"}, untouched=others[1])
    for task in others:
        before = rows.stored(lab)
        request = send(api, "PUT", rows.path_of(task), {"status": "pending", "priority": 7})
        expect_status(api, request, 409, why=f"{task} has not failed")
        rows.expect_unchanged(api, request, before)
    for task, status in ((others[0], "completed"), (others[1], "failed"), (left, "completed")):
        before = rows.stored(lab)
        request = send(api, "PUT", rows.path_of(task), {"status": status})
        expect_refused(api, request, f"the status “{status}”")
        rows.expect_unchanged(api, request, before)
    races.requeue_while_a_worker_claims(lab, api)


@check("2a", points=2, needs=[ROOT])
def test_deletes_a_task(lab):
    """DELETE /tasks/{id} removes the task and answers with it; the second time it is 404.

    The answer is the last chance to see what was deleted.
    """
    task, other = rows.add(lab, "failed"), rows.add(lab)
    api = lab.start_api()
    rows.delete(api, task, untouched=other)
    for method in ("DELETE", "GET"):
        request = send(api, method, rows.path_of(task))
        expect_status(api, request, 404, why=f"{task} was deleted")


@check("2a", points=8, needs=[ROOT])
def test_refuses_bad_input(lab):
    """What cannot be stored, or makes no sense, is refused with 4xx and changes nothing.

    Whatever a client sends, the fault is the client's, and a 500 says that it was ours.
    """
    task = lab.add_task()
    api = lab.start_api()
    for what, data in bad_input.good_tasks():
        request = api.send("POST", "/tasks", data)
        expect_status(api, request, 201, what=what)
        rows.expect_created(api, request, data, what)
    lab.tell(f"Added tasks at the limits of what is allowed: {api.name} took them all.")
    before = rows.stored(lab)
    path = rows.path_of(task)
    for case in (
        *bad_input.bad_tasks(), *bad_input.bad_changes(path), *bad_input.bad_questions(),
        *bad_input.bad_ids(),
    ):  # fmt: skip
        request = api.send(case.method, case.path, body=case.body)
        expect_refused(api, request, case.what)
        rows.expect_unchanged(api, request, before)
    for case in bad_input.odd_ones():
        request = api.send(case.method, case.path, body=case.body)
        api.expect_no_server_error(
            request, f"{case.method} with {case.what} is not answered with a server's error."
        )


@check("2a", points=3, needs=[ROOT])
def test_treats_sql_as_text(lab):
    """SQL in a request is text like any other.

    A query that is put together from strings runs whatever a stranger writes into a title.
    """
    tasks = [rows.add(lab) for _ in range(3)]
    api = lab.start_api()
    races.expect_text_only(lab, api, tasks)


@check("2a", points=3, needs=[ROOT])
def test_answers_in_one_shape(lab):
    """Every answer has the one shape, whatever its status: data and error, one of them null.

    A client that has to guess what an error looks like guesses wrong when it matters.
    """
    task = lab.add_task()
    api = lab.start_api()
    path = rows.path_of(task)
    for method, where, data in (
        ("POST", "/tasks", {"title": "sort the mail"}),
        ("GET", "/tasks", None),
        ("GET", path, None),
        ("PUT", path, {"priority": 3}),
        ("GET", "/health", None),
        ("GET", rows.path_of(UNKNOWN_ID), None),
        ("GET", rows.path_of("not-a-uuid"), None),
        ("GET", "/tasks?limit=0", None),
        ("POST", "/tasks", {"title": " "}),
        ("PUT", path, {"status": "pending"}),
        ("DELETE", path, None),
        ("DELETE", path, None),
    ):
        expect_shape(api, send(api, method, where, data))
    request = send(api, "GET", "/no-such-route")
    expect_status(api, request, 404, why="there is no such route")
    expect_shape(api, request)
    request = send(api, "PATCH", "/tasks", {})
    expect_refused(api, request, "a method that the route does not know")
    expect_shape(api, request)
    expect_shape(api, send(api, "POST", "/tasks", body=b'{"title": "a good'))
    lab.sql("ALTER TABLE tasks RENAME TO tasks_gone")
    lab.tell("Renamed the table, so that no answer can be a good one.")
    request = send(api, "GET", "/tasks")
    expect_failure(api, request)
    expect_shape(api, request)
    expect_nothing_told(
        api, request, {"what PostgreSQL said": "does not exist", "a traceback": "Traceback"}
    )


@check("2a", points=3, needs=[ROOT], workers=3)
def test_answers_health_truly(lab):
    """GET /health is 200 while the database answers, and 503 while it does not.

    Who asks sends no requests to an API that says 503, and starts another one. An API that is
    started before its database waits for it: a deploy cannot choose the order.
    """
    api = outage.start_without_database(lab)
    outage.end(api)
    outage.expect_health(api, 200)
    outage.begin(api)
    outage.expect_health(api, 503)


@check("2a", points=3, needs=[ROOT], workers=3)
def test_refuses_to_start_without_a_database(lab):
    """Without a usable DATABASE_URL, or with a PORT that is none, the API refuses to start.

    An API that starts with half of its configuration fails later, at night. The message names the
    variable, and never the password.
    """
    expect_refusal(lab)


@check("2a", points=4, needs=[ROOT])
def test_keeps_its_connections_few(lab):
    """However many requests come at once, at most 10 connections are open, and all are answered.

    PostgreSQL takes a hundred, for everybody. Requests beyond a pool's size wait for their turn.
    """
    crowd.come_at_once(lab)


@check("2a", points=5, needs=[ROOT], workers=3)
def test_describes_itself_truly(lab):
    """/openapi.json describes the API as it is: each status, and what each answer looks like.

    Clients are made from this document. What it leaves out, or says wrongly, breaks them.
    """
    # Where Jupyter is installed, this takes a second to load, which `make hint` need not wait for.
    from graders.lab02 import openapi

    openapi.expect_true(lab)
