"""What the orchestrator answers to a new task, and what is in Redis then: a hash and four jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from graders.harness.api import Api, Request
from graders.harness.check import Finding
from graders.harness.jobs import QUEUE, JobsLab
from graders.harness.report.text import cut
from graders.harness.results import Evidence
from graders.harness.untrusted import from_json
from graders.lab01.asking import as_json, told, wrong_answer
from graders.lab01.times import read, trouble_with

PARTS = 4
SHOWN = 80  # columns of a value in a sentence
NEAR = timedelta(minutes=1)  # between two times that are to be one, and are not off by a zone


def expect_accepted(api: Api, request: Request, began: datetime) -> dict[str, Any]:
    """The answer to POST /tasks says what it should; returns it. Raises a Finding.

    `began` is when the request was sent, by the grader's clock.
    """
    answer = told(api, request)

    def wrong(what: str, seen: str) -> Exception:
        return wrong_answer(api, request, f"In the answer to POST /tasks, {what}", seen)

    task_id = answer.get("task_id")
    if not isinstance(task_id, str) or not task_id.strip():
        raise wrong("task_id is the id of the task, a text.", _seen(answer, "task_id"))
    if answer.get("status") != "queued":
        raise wrong("status is “queued”.", _seen(answer, "status"))
    expect_created_at(api, request, answer, began)
    expect_parts(api, request, answer)
    return answer


def expect_created_at(
    api: Api, request: Request, answer: dict[str, Any], began: datetime
) -> None:
    """The answer's created_at is a time in UTC, between `began` and now. Raises a Finding."""
    if "created_at" not in answer:
        trouble = "There is no such field."
    else:
        trouble = trouble_with(answer["created_at"], began, datetime.now(UTC))
    if trouble:
        raise wrong_answer(
            api, request,
            f"In the answer to {request.method}, created_at is when the task was added: a time in "
            "UTC, as RFC 3339 writes it.", trouble,
        )  # fmt: skip


def expect_parts(api: Api, request: Request, answer: dict[str, Any]) -> None:
    """The answer has four subtasks, with the ids of its task and texts. Raises a Finding."""
    ids = ids_of(answer["task_id"])
    expected = (
        f"In the answer to {request.method}, subtasks has four entries, each with its subtask_id "
        "(<task_id>-0 to <task_id>-3, in this order) and its description."
    )
    parts = answer.get("subtasks")
    if not isinstance(parts, list) or len(parts) != PARTS:
        seen = f"It has {len(parts)}." if isinstance(parts, list) else _seen(answer, "subtasks")
        raise wrong_answer(api, request, expected, seen)
    for part, id in zip(parts, ids, strict=True):
        if not isinstance(part, dict) or part.get("subtask_id") != id:
            seen = f"In the place of {id} stands {as_json(part)}."
            raise wrong_answer(api, request, expected, seen)
        if not isinstance(part.get("description"), str):
            raise wrong_answer(api, request, expected, f"{id} has no description.")


def ids_of(task_id: str) -> list[str]:
    """The ids of a task's jobs, in the order in which they are to be done."""
    return [f"{task_id}-{number}" for number in range(PARTS)]


def expect_stored(lab: JobsLab, *tasks: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Of each task (what was posted, what was answered) the hash is there, and all jobs are.

    The jobs are in the queue in the order in which they are to be done, and nothing else is.
    """
    for posted, answer in tasks:
        _expect_hash(lab, posted, answer)
    wanted = [
        {"task_id": answer["task_id"], "subtask_id": part["subtask_id"],
         "description": part["description"], "priority": posted.get("priority", 1)}
        for posted, answer in tasks for part in answer["subtasks"]
    ]  # fmt: skip
    expect_jobs(lab, wanted)


def _expect_hash(lab: JobsLab, posted: dict[str, Any], answer: dict[str, Any]) -> None:
    key = f"task:{answer['task_id']}"
    kind = lab.ask(lambda r: r.type(key)).decode()
    raw = lab.ask(lambda r: r.hgetall(key)) if kind == "hash" else {}
    hash = {name.decode(errors="replace"): text.decode(errors="replace")
            for name, text in raw.items()}  # fmt: skip
    lines = tuple(f"{name}: {cut(text, SHOWN)}" for name, text in hash.items()) or (
        f"(there is no {key})" if kind == "none" else f"(it is a {kind})",
    )

    def wrong(expected: str, seen: str) -> Finding:
        return lab.finding("task-stored-wrong", expected, seen, Evidence(key, lines))

    if not hash:
        raise wrong("Once POST is answered, the hash of the task is in Redis.",
                    f"There is no {key}." if kind == "none" else f"{key} is a {kind}.")  # fmt: skip
    wanted = {
        "task_id": answer["task_id"], "description": posted["description"],
        "priority": str(posted.get("priority", 1)), "status": "queued",
        "created_at": answer["created_at"],
    }  # fmt: skip
    for name, text in wanted.items():
        expected = f"In the hash of the task, {name} is “{cut(text, SHOWN)}”."
        if name not in hash:
            raise wrong(expected, "There is no such field.")
        if name == "created_at":  # the same moment may be written in another way
            moment, _ = read(text)
            if trouble := trouble_with(hash[name], moment - NEAR, moment + NEAR):
                raise wrong(expected, trouble)
        elif hash[name] != text:
            raise wrong(expected, f"It is “{cut(hash[name], SHOWN)}”.")
    ids = ids_of(answer["task_id"])
    expected = "In the hash of the task, subtasks is a JSON list of the four subtask ids."
    if from_json(hash.get("subtasks", "")) != ids:
        raise wrong(expected, f"It is “{cut(hash['subtasks'], SHOWN)}”." if "subtasks" in hash
                    else "There is no such field.")  # fmt: skip


def expect_jobs(lab: JobsLab, wanted: list[dict[str, Any]]) -> None:
    """These jobs are in the queue, in the order in which they are to be popped. Raises a Finding.

    They may say more than is asked for.
    """
    try:
        raw = lab.queued()
    except redis.ResponseError:
        raise lab.finding("jobs-wrong", f"{QUEUE} is a list.", "It is something else.") from None
    jobs = [from_json(each) for each in raw]
    tasks = list(dict.fromkeys(each["task_id"] for each in wanted))
    places = {id: f"<task {number}>" if len(tasks) > 1 else "<task_id>"
              for number, id in enumerate(tasks, 1)}  # fmt: skip

    def placed(text: str) -> str:
        for id, place in places.items():
            text = text.replace(id, place)
        return text

    shown = tuple(
        cut(placed(each.decode(errors="backslashreplace")), 160) for each in raw[:12]
    )
    evidence = Evidence(f"{QUEUE}, in the order in which it is popped", shown or ("(empty)",))
    ids = [each["subtask_id"] for each in wanted]
    expected = f"Once POST is answered, its four jobs are in {QUEUE}: <task_id>-0 is popped first" \
               " (from the right), then -1, -2 and -3."  # fmt: skip
    if len(jobs) != len(wanted):
        raise lab.finding("jobs-wrong", expected,
                          f"There are {len(jobs)} entries instead of {len(wanted)}.", evidence)
    names = ", ".join(wanted[0])
    for job, good in zip(jobs, wanted, strict=True):
        if not isinstance(job, dict):
            raise lab.finding("jobs-wrong", f"A job is a JSON object with {names}.",
                              "One is none.", evidence)  # fmt: skip
        if job.get("subtask_id") != good["subtask_id"]:
            known = job.get("subtask_id") in ids
            seen = f"Where {good['subtask_id']} should be there is {job.get('subtask_id')!r}"
            raise lab.finding("jobs-wrong", expected,
                              placed(seen) + (": the order is another." if known else "."),
                              evidence)  # fmt: skip
        for name, value in good.items():
            if name not in job or job[name] != value or type(job[name]) is not type(value):
                due = cut(repr(value), SHOWN)
                raise lab.finding(
                    "jobs-wrong", placed(f"In the job {good['subtask_id']}, {name} is {due}."),
                    placed(_seen(job, name)), evidence,
                )  # fmt: skip


def _seen(answer: dict[str, Any], name: str) -> str:
    if name not in answer:
        return "There is no such field."
    return f"It is {cut(repr(answer[name]), SHOWN)}."
