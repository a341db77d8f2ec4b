"""What a stranger writes into a request, and what a worker does beside it."""

from __future__ import annotations

from collections.abc import Sequence

from graders.harness.api import Api, Request
from graders.harness.lab import Lab, Task
from graders.harness.steps import Hold
from graders.harness.worker import asks_for_tasks
from graders.lab02 import rows
from graders.lab02.asking import (
    expect_refused,
    expect_status,
    send,
    succeeded,
    words,
)

# Each does something to other tasks if it is run. DELETE and UPDATE are what the role may do.
HOSTILE = (
    "'); DELETE FROM tasks; --",
    "x', priority = 9, description = 'gone",
    "' OR '1'='1",
    '"; DELETE FROM tasks; --',
    "\\'; UPDATE tasks SET status = 'completed'; --",
    "100% of %s and %(title)s, {title} and $1, :title and ?",
    "Robert''s \\ “quotes” 漢字 🐘",
)

# Whoever works on the row has it locked, and then this changes nothing.
RENAME = """
    UPDATE tasks SET title = %s, updated_at = now()
    WHERE id = (SELECT id FROM tasks WHERE id = %s FOR UPDATE SKIP LOCKED)
"""


def expect_text_only(lab: Lab, api: Api, tasks: Sequence[Task]) -> None:
    """SQL in titles, ids and queries changes nothing but what the request is about."""
    for title in HOSTILE:
        before = rows.stored(lab)
        data = {"title": title, "description": title}
        request = send(api, "POST", "/tasks", data)
        _expect_others_alone(api, request, before)
        expect_status(api, request, 201)
        rows.expect_created(api, request, data)
    for type in HOSTILE[:3]:
        before = rows.stored(lab)
        data = {"title": "of a hostile type", "type": type}
        request = send(api, "POST", "/tasks", data)
        _expect_others_alone(api, request, before)
        expect_status(api, request, 201)
        rows.expect_created(api, request, data)
    for data in (*({"title": text} for text in HOSTILE[:3]), {"description": HOSTILE[1]}):
        before = rows.stored(lab)
        request = send(api, "PUT", rows.path_of(tasks[0]), data)
        _expect_others_alone(api, request, before, tasks[0])
        expect_status(api, request, 200)
        rows.expect_task(
            api, request, api.answer_of(request).json.get("data"),
            {**before[tasks[0].id], **data,
             "updated_at": lab.row(tasks[0])["updated_at"]},
        )  # fmt: skip
    for method, path in (
        ("GET", "/tasks?status=pending'%20OR%20'1'='1"),
        ("GET", "/tasks?limit=1%3BDELETE%20FROM%20tasks"),
        ("GET", "/tasks/'%20OR%20'1'='1"),
        ("DELETE", f"/tasks/{tasks[1].id}'%20OR%20'1'='1"),
    ):
        before = rows.stored(lab)
        request = send(api, method, path)
        _expect_others_alone(api, request, before)
        expect_refused(api, request, "SQL in its path")


def _expect_others_alone(
    api: Api, request: Request, before: dict[str, rows.Row], but: Task | None = None
) -> None:
    """No row that was there before is another one now, save the one that it is about."""
    after = rows.stored(api.lab)
    for id, row in before.items():
        if (but is None or id != but.id) and after.get(id) != row:
            raise api.lab.finding(
                "sql-injected", f"{words(api, request)} changes nothing of other tasks.",
                f"{api.lab.label(id)} "
                f"{'is gone' if id not in after else 'is not what it was'}.",
                api.exchange_evidence(request), api.statement_evidence(),
            )  # fmt: skip
    expected = f"{words(api, request)} is answered like any other request."
    api.expect_no_server_error(request, expected)


def change_while_another_changes(lab: Lab, api: Api) -> None:
    """A task gets another title just when the API has read it, and before it writes it.

    Each statement of the API is held in turn. Where the row is locked by then, or one statement
    does it all, nothing can come in between, and that is right. So is refusing the request.
    """
    task, title = rows.add(lab), "the title that somebody else has given it"
    other = lab.connect()
    hold = api.wire.hold(asks_for_tasks, when="before", times=None)
    request = api.send("PUT", rows.path_of(task), {"priority": 6})
    lab.tell(f"Sent {words(api, request)}, and held each statement of {api.name} in turn.")
    renamed, number = False, 0
    while _next_held(lab, request, hold, number):
        number += 1
        if number > 1 and not renamed:
            renamed = other.execute(RENAME, (title, task.id)).rowcount == 1
            if renamed:
                lab.tell(
                    f"Before statement {number} somebody else changed the title of {task}; its "
                    "row was not locked."
                )
        hold.next()
    hold.release()
    answer, row = api.answer_of(request), lab.row(task)
    expected = f"{words(api, request)} changes the priority, and leaves the title as it is by then."
    if renamed and row["title"] != title:
        raise lab.finding(
            "change-lost", expected, f"The title is “{row['title']}”.",
            rows.evidence(row), api.statement_evidence(),
        )  # fmt: skip
    if succeeded(answer) and row["priority"] != 6:
        raise lab.finding(
            "row-wrong", expected, f"It was answered with {answer.status}, and the priority is "
            f"{row['priority']}.", rows.evidence(row), api.statement_evidence(),
        )  # fmt: skip
    if not succeeded(answer) and not (renamed and answer.status == 409):
        expect_status(api, request, 200)


def _next_held(lab: Lab, request: Request, hold: Hold, number: int) -> bool:
    """Whether one more statement than `number` is held; else the request is over."""
    lab.history.wait_until(lambda _: request.over or len(hold.steps) > number, lab.budgets.work)
    return len(hold.steps) > number


def requeue_while_a_worker_claims(lab: Lab, api: Api) -> None:
    """A failed task is put back while it is being put back and claimed by others.

    The row is locked until the API waits for it, or has given up. Then it is committed that a
    worker has the task; the API may not take it from there.
    """
    task = rows.add(lab, "failed")
    other = lab.connect()
    with other.transaction():
        other.execute(
            "UPDATE tasks SET status = 'processing', assigned_worker = 'worker-9',"
            " updated_at = now() WHERE id = %s", (task.id,),
        )  # fmt: skip
        request = api.send("PUT", rows.path_of(task), {"status": "pending"})
        lab.tell(
            f"Sent {words(api, request)} while {task} was being claimed by worker-9; committed "
            f"the claim when {api.name} waited for the row."
        )
        _wait_until_blocked(lab, api, request)
    answer = api.answer_of(request)
    row = lab.row(task)
    if row["status"] == "processing" and not succeeded(answer):
        return
    raise lab.finding(
        "living-task-taken",
        f"{task}, which worker-9 has claimed meanwhile, stays in its hands, and the request is "
        "refused.",
        f"It was answered with {answer.status}, and the task is “{row['status']}”.",
        rows.evidence(row), api.exchange_evidence(request), api.statement_evidence(),
    )  # fmt: skip


def _wait_until_blocked(lab: Lab, api: Api, request: Request) -> None:
    """Until one of the API's sessions waits for a lock, or the request is over."""

    def settled(_: object) -> bool:
        return request.over or any(lab.blocked_by(backend) for backend in api.backends)

    since, left = len(lab.history), lab.budgets.work
    while not settled(()) and left > 0 and not lab.session.stopping:
        lab.history.wait(lambda e: True, 0.02, since)
        since, left = len(lab.history), left - 0.02
