"""Redis goes away from the orchestrator, in two ways, and comes back."""

from __future__ import annotations

from typing import Any

from graders.harness.api import Api, Request
from graders.harness.room import Room
from graders.lab01.asking import ask_until, expect_status, told
from graders.lab01.early import writes
from graders.lab01.stored import PARTS


def bound(api: Api) -> float:
    """Seconds for an answer while Redis is away: far more than the few that are asked for.

    It does not grow with the machine's slowness as other bounds do: what is waited for are the
    program's own time limits. redis-py as it is needs 59 seconds.
    """
    return 16 + 4 * api.lab.budgets.factor


def start_without_redis(lab: Room) -> Api:
    """Start an API whose Redis is away from the beginning; it is to answer all the same."""
    api = lab.start_api(ready=False, told="its Redis is away")
    api.wire.refuse()
    api.wire.cut()  # nobody has connected yet, or it is as if nobody had
    api.expect_ready()
    return api


def refuse(api: Api) -> None:
    """From now on connections are cut, and new ones refused: Redis is stopped."""
    api.wire.refuse()
    api.wire.cut()
    api.lab.tell(f"Redis went away from {api.name}: connections cut, new ones refused.")


def stall(api: Api) -> None:
    """From now on connections are accepted, and nothing ever comes back: Redis hangs."""
    api.wire.stall()
    api.lab.tell(f"Redis hung: {api.name} could connect and send, and no answer came.")


def end(api: Api) -> None:
    """Redis is there again."""
    api.wire.stall(False)
    api.wire.refuse(False)
    api.lab.tell("Redis was there again.")


def expect_unavailable(api: Api, *requests: tuple[str, str, Any]) -> None:
    """Each of these requests, sent at once, is answered with 503 and JSON. Raises a Finding."""
    sent = [api.send(*request, timeout=bound(api)) for request in requests]
    for request in sent:
        answer = _answer_in_time(api, request)
        api.lab.tell(f"Sent {request.shown}: it was answered with {answer.status}.")
        health = request.path == "/health"
        if answer.status != 503:
            raise api.lab.finding(
                "health-untrue" if health else "outage-not-told",
                f"While Redis is away, {request.shown} is answered with 503.",
                f"It was answered with {answer.status}.",
                api.exchange_evidence(request), api.log_evidence(20),
            )  # fmt: skip
        if not health:
            told(api, request)


def cut_off_while_storing(api: Api) -> None:
    """Its connection is cut when Redis has stored a task and the API has not heard of it.

    It may be answered with 503, as nobody knows whether it is stored, or rightly; it may not be
    stored twice. Raises a Finding.
    """
    lab = api.lab
    description = "count the chairs, once"
    hold = api.wire.hold(writes, when="after")
    request = api.send("POST", "/tasks", {"description": description}, timeout=bound(api))
    api.expect_held(
        hold, request, f"{request.shown} makes {api.name} write into Redis.",
        "No such command came.",
    )  # fmt: skip
    hold.cut()
    lab.tell(f"Sent {request.shown}, and cut its connection when Redis had stored it.")
    answer = _answer_in_time(api, request)
    lab.tell(f"It was answered with {answer.status}.")
    tasks = lab.ask(lambda r: [r.hget(key, "description") for key in r.keys("task:*")])
    count = tasks.count(description.encode())
    jobs = sum(description.encode() in raw for raw in lab.queued())
    if count > 1 or jobs > PARTS:
        raise lab.finding(
            "stored-twice",
            f"“{description}”, which was posted once, is stored once, with its {PARTS} jobs.",
            f"Hashes of it: {count}. Jobs of it in the queue: {jobs}.",
            api.exchange_evidence(request), api.statement_evidence(),
        )  # fmt: skip
    if answer.status not in (201, 503):
        raise lab.finding(
            "outage-not-told", f"{request.shown}, whose connection was lost on the way, is "
            "answered with 503, or with 201.", f"It was answered with {answer.status}.",
            api.exchange_evidence(request), api.log_evidence(20),
        )  # fmt: skip


def _answer_in_time(api: Api, request: Request) -> Any:
    answer = api.wait_answer(request, 1.5 * bound(api))
    if answer is not None:
        return answer
    expected = f"While Redis is away, {request.shown} is answered with 503 in a few seconds."
    # Its connections break off a moment before its end is known.
    api.lab.history.wait_until(lambda _: not api.alive, api.lab.budgets.work / 4)
    api.fail_if_ended(expected)
    raise api.lab.finding(
        "request-unanswered", expected, f"No answer came: {request.problem}.",
        api.statement_evidence(), api.log_evidence(20),
    )  # fmt: skip


def expect_well_again(api: Api, method: str, path: str, data: Any, status: int) -> Request:
    """This request is answered so again, in the boot budget; 503 until then. Raises a Finding."""
    request = ask_until(api, method, path, data, status, bound(api))
    answer = api.answer_of(request)
    if answer.status == 503:
        raise api.lab.finding(
            "not-well-again",
            f"Once Redis is there again, {request.shown} is answered with {status}, without a "
            "restart of the API.",
            f"{api.lab.budgets.boot:.0f} s later it was still answered with 503.",
            api.exchange_evidence(request), api.statement_evidence(), api.log_evidence(20),
        )  # fmt: skip
    expect_status(api, request, status)
    return request
