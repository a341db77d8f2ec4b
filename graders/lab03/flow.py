"""The flow of tasks from a client through an API and back to the client."""

from __future__ import annotations

from pathlib import Path

from graders.harness import history as h
from graders.harness.api import Answer, Api, Request
from graders.harness.check import CouldNotGrade
from graders.harness.lab import TITLES, Lab, Task

KITS_API = Path(__file__).with_name("api")
WAY = ["pending", "processing", "completed"]


def start_api(lab: Lab) -> Api:
    """Start the API that the client speaks to: the kit's own, or the one that API= names."""
    which = "the one that API= names" if lab.session.options.api else "the kit's own"
    return lab.start_api(told=which, submission=lab.session.other_api(KITS_API))


def post(lab: Lab, api: Api, count: int) -> list[Task]:
    """Post so many tasks at once; each is answered 201, with its id."""
    titles = [TITLES[n % len(TITLES)] for n in range(count)]
    requests = [api.send("POST", "/tasks", {"title": title}) for title in titles]
    lab.tell(f"Posted {'a task' if count == 1 else f'{count} tasks at once'}.")
    return [
        lab.know_task(_data(lab, api, request, 201)["id"], title)
        for request, title in zip(requests, titles, strict=True)
    ]


def expect_history(lab: Lab, tasks: list[Task]) -> None:
    """Each task went from pending to processing to completed, and no other way."""
    lab.sync()
    for task in tasks:
        way = _way_of(lab, task)
        if way != WAY:
            raise lab.finding(
                "task-executed-twice" if way.count("processing") > 1 else "claim-not-visible",
                f"{task} goes from {' to '.join(WAY)}.",
                f"It went from {' to '.join(map(str, way))}.",
                lab.row_evidence(task),
                *(worker.statement_evidence() for worker in lab.workers),
            )


def _way_of(lab: Lab, task: Task) -> list[str]:
    """Its statuses, one after the other; a second claim is told, a heartbeat is not."""
    way: list[str] = []
    worker = None
    for event in lab.history.events(h.ROW_CHANGED):
        if str(event.data["task"]) != task.id:
            continue
        now, by = event.data["new"], event.data.get("worker")
        if not way or now != way[-1] or (now == "processing" and by != worker):
            way.append(now)
        worker = by
    return way


def expect_told(lab: Lab, api: Api, tasks: list[Task]) -> None:
    """GET /tasks/{id} says of each task that it is completed."""
    for task in tasks:
        request = api.send("GET", f"/tasks/{task.id}")
        status = _data(lab, api, request, 200).get("status")
        if status != "completed":
            raise lab.finding(
                "wrong-answer",
                f"GET /tasks/{task} says that it is completed.",
                f"It says “{status}”.",
                api.exchange_evidence(request),
                lab.row_evidence(task),
            )


def _data(lab: Lab, api: Api, request: Request, status: int) -> dict:
    """The task in the answer to a request."""
    answer = api.answer_of(request) if lab.session.options.api else _of_the_kit(api, request)
    told = answer.json
    task = told.get("data") if isinstance(told, dict) else None
    if answer.status != status:
        code = "server-error" if answer.status >= 500 else "wrong-status-code"
    elif not isinstance(task, dict) or not isinstance(task.get("id"), str):
        code = "wrong-answer"
    else:
        return task
    raise lab.finding(
        code,
        f"{request.method} {request.path} is answered {status}, with the task in “data”.",
        f"It was answered {answer.shown}.",
        api.log_evidence(),
    )


def _of_the_kit(api: Api, request: Request) -> Answer:
    """What the kit's own API answered. That it could not is never the worker's fault."""
    answer = api.wait_answer(request)
    if answer is None:
        raise CouldNotGrade(f"The kit's own API did not answer {request.shown}: {request.problem}.")
    if answer.status >= 500:
        raise CouldNotGrade(f"The kit's own API answered {request.shown} with {answer.shown}.")
    return answer
