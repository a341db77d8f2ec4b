"""What a stranger writes into a request, and what a worker does beside it."""

from __future__ import annotations

from collections.abc import Sequence

from graders.harness.api import Api, Request
from graders.harness.lab import Lab, Task
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


def expect_text_only(lab: Lab, api: Api, tasks: Sequence[Task]) -> None:
    """SQL in titles, ids and queries changes nothing but what the request is about."""
    for title in HOSTILE:
        before = rows.stored(lab)
        request = send(api, "POST", "/tasks", {"title": title, "description": title})
        _expect_others_alone(api, request, before)
        expect_status(api, request, 201)
        rows.expect_created(api, request, {"title": title, "description": title})
    for title in HOSTILE[:3]:
        before = rows.stored(lab)
        request = send(api, "PUT", rows.path_of(tasks[0]), {"title": title})
        _expect_others_alone(api, request, before, tasks[0])
        expect_status(api, request, 200)
        rows.expect_task(
            api, request, api.answer_of(request).json.get("data"),
            {**before[tasks[0].id], "title": title,
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
