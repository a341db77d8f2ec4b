"""Whether a POST is answered before its task is stored: what it writes is held meanwhile."""

from __future__ import annotations

from typing import Any

from graders.harness import history as h
from graders.harness.api import Api, Request
from graders.harness.results import Evidence
from graders.harness.steps import Hold, Step

# Seconds for which a write is held. Only an answer that does not wait for it comes meanwhile.
HELD = 0.25
WRITES = ("PUSH", "HSET", "HMSET", "HSETNX", "EVAL", "FCALL", "EXEC", "LINSERT", "LMOVE")


def writes(step: Step) -> bool:
    """Whether a step stores something of a task."""
    said = [statement.sql.upper() for statement in step.statements] or [step.words.upper()]
    return step.kind == "command" and any(w in each for each in said for w in WRITES)


def post_with_writes_held(api: Api, data: dict[str, Any]) -> tuple[Request, Hold]:
    """Send POST /tasks, hold each of its writes before Redis hears it, let go one at a time.

    Returns once it is answered, or can be no more; what is held then is held still.
    """
    lab = api.lab
    hold = api.wire.hold(writes, when="before", times=None)
    request = api.send("POST", "/tasks", data)
    let_go = 0

    def held_or_over(_: Any) -> bool:
        return request.over or _arrived(api, request) > let_go

    while True:
        lab.history.wait_until(held_or_over, 3 * lab.budgets.work)
        if not request.over and _arrived(api, request) > let_go:
            lab.history.wait_until(lambda _: request.over, HELD)
        if request.over or _arrived(api, request) <= let_go:
            return request, hold
        let_go += 1
        hold.next()


def expect_nothing_on_its_way(api: Api, request: Request, task_id: str) -> None:
    """The task is stored as a whole, or nothing is held that would store it. Raises a Finding.

    To be asked while what is held is held still: an answer that came all the same came too early.
    """
    lab = api.lab
    hash = lab.ask(lambda r: r.exists(f"task:{task_id}"))
    jobs = sum(task_id.encode() in raw for raw in lab.queued())
    if hash and jobs >= 4:
        return
    held = [step for step in api.steps(h.STEP_ARRIVED) if writes(step) and not step.answered_at]
    if not held:  # it may be written a moment after the answer
        since = len(lab.history)
        api.wait(lambda _: any(map(writes, api.steps(h.STEP_ARRIVED, since=since))),
                 lab.budgets.work)  # fmt: skip
        held = [s for s in api.steps(h.STEP_ARRIVED) if writes(s) and not s.answered_at]
    if held:
        there = f"{jobs} of its four jobs" if jobs < 4 else "its four jobs, but not the hash,"
        raise lab.finding(
            "answered-too-early",
            "POST is answered once the hash of the task and its four jobs are in Redis.",
            f"The answer came when {there} were there: the rest was still on its way.",
            Evidence("What was on its way", tuple(step.words for step in held)),
            api.exchange_evidence(request),
        )  # fmt: skip


def _arrived(api: Api, request: Request) -> int:
    """How many writes have come since the request was sent."""
    sent = next(e.n for e in api.lab.history.events(h.REQUEST_SENT)
                if e.data["request"] is request)  # fmt: skip
    return sum(map(writes, api.steps(h.STEP_ARRIVED, since=sent)))
