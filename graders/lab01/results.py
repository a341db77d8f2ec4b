"""What is stored as the result of a job: its fields, its time, and how long it is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from graders.harness.check import Finding
from graders.harness.jobs import Job, JobsLab, JobsWorker
from graders.lab01 import times

TURN = 0.5  # seconds after which Redis is asked again although nothing has happened
HOUR = 3_600_000  # milliseconds, as PTTL counts
SLACK = timedelta(seconds=0.1)  # some clocks are read in coarse ticks



def wait_until(lab: JobsLab, wanted: Callable[[], Any]) -> Any:
    """Ask again, at whatever happens, until this is true, for at most the work budget.

    For questions to Redis: a wait of the history's would keep everybody waiting meanwhile.
    """
    left = lab.budgets.work
    while True:
        since, began = len(lab.history), lab.history.now()
        got = wanted()
        if got or left <= 0 or lab.session.stopping:
            return got
        turn = min(left, TURN)
        lab.history.wait(lambda _: True, turn, since)
        left -= min(lab.history.now() - began, turn)  # as History.wait_until counts


def expect_whole(
    lab: JobsLab, job: Job, worker: JobsWorker, worker_id: str, finished: datetime, told: str
) -> None:
    """The job's result, which is stored, says who did what and when, and is kept for a day.

    `finished` is when its work was answered, by the grader's clock; `told` says where the worker
    has its name from.
    """
    seen = datetime.now(UTC)
    result = lab.result(job) or {}

    def wrong(expected: str, found: str) -> Finding:
        return lab.finding("result-wrong", expected, found, lab.evidence(job),
                           worker.statement_evidence(3))  # fmt: skip

    wanted = {
        "subtask_id": (job.id, "is that of the job"),
        "task_id": (job.task_id, "is that of the job"),
        "description": (job.description, "is that of the job"),
        "worker_id": (worker_id, f"is “{worker_id}”, {told}"),
    }
    for name, (value, meant) in wanted.items():
        expected = f"In the result of {job}, {name} {meant}."
        if name not in result:
            raise wrong(expected, "There is no such field.")
        if result[name] != value:
            raise wrong(expected, f"It is {_shown(result[name])}.")

    expected = f"In the result of {job}, completed_at is a time in UTC, as RFC 3339 writes it."
    if "completed_at" not in result:
        raise wrong(expected, "There is no such field.")
    text = result["completed_at"]
    time, unit = times.read(text)
    if time is None:
        raise wrong(expected, f"It is {_shown(text)}.")
    if time.utcoffset() != timedelta(0):
        raise wrong(expected, f"It is {text}, which is in another time zone.")
    earliest, latest = finished - unit - SLACK, seen + unit + SLACK
    if not earliest <= time <= latest:
        raise wrong(
            f"In the result of {job}, completed_at is when its work had been done: between "
            f"{finished:%H:%M:%S.%f} and {seen:%H:%M:%S.%f} UTC.",
            f"It is {text}.",
        )
    expect_kept(lab, job, worker)


def expect_kept(lab: JobsLab, job: Job, worker: JobsWorker) -> None:
    """Its key lives for a day from when it was stored."""
    key = f"result:{job.id}"

    def life() -> int:
        return lab.ask(lambda r: r.pttl(key))

    # Some say how long in a command of its own, after they have stored it. Once the worker asks
    # for the next job it has said all.
    since = len(lab.history)
    wait_until(lab, lambda: life() >= 0 or worker.polls(since) >= 2 or not worker.alive)
    left = life()
    if 23 * HOUR < left <= 24 * HOUR:
        return
    seen = (
        "It is kept for ever (its key has no time to live)." if left == -1
        else "It is gone already." if left < 0
        else f"It is kept for {timedelta(milliseconds=left)} from now on."
    )  # fmt: skip
    raise lab.finding(
        "result-kept-wrongly", f"The result of {job} is kept for 24 hours.", seen,
        worker.statement_evidence(3),
    )  # fmt: skip


def _shown(value: Any, most: int = 80) -> str:
    text = f"“{value}”" if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + "…"
