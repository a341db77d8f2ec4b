"""What a queue may hold that is no job, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from graders.harness.jobs import MALFORMED, QUEUE, Job, JobsLab, JobsWorker
from graders.harness.results import Evidence
from graders.lab01.results import wait_until

ASKED = 16  # questions per entry after which a worker is believed never to get through


@dataclass(frozen=True)
class Entry:
    """An entry of the queue that is no job."""

    what: str
    raw: bytes


def entries(task_id: str) -> list[Entry]:
    """One of each sort. They are spaced as no library writes JSON, so a copy can be told apart."""
    fields = {
        "description": '"caf\\u00e9"', "task_id": f'"{task_id}"', "priority": "1",
        "subtask_id": f'"{task_id}-%d"',
    }  # fmt: skip

    def job(number: int, **other: str | None) -> bytes:
        """A job with another value in one of its fields, or without it."""
        told = {name: value for name, value in (fields | other).items() if value is not None}
        inside = " , ".join(f'"{name}" : {value}' for name, value in told.items())
        return f"{{ {inside} }}".replace("%d", str(number)).encode()

    whole = job(90)
    sorts = [
        ("half a JSON object", whole[: len(whole) // 2]),
        ("a job in Latin-1, which is not UTF-8", job(91).replace(b"\\u00e9", b"\xe9")),
        ("text that is not JSON", b"resize the photos"),
        ("a JSON list", b'[ "resize" ,  "the photos" ]'),
        ("null", b" null"),
        ("a number", b"7 "),
        ("a JSON text", b' "resize the photos"'),
        ("an empty entry", b""),
    ]
    sorts += [
        (f"a job without {name}", job(number, **{name: None}))
        for number, name in enumerate(fields, 92)
    ]
    sorts += [
        ("a job whose subtask_id is a number", job(96, subtask_id="96")),
        ("a job whose subtask_id is null", job(97, subtask_id="null")),
        ("a job whose task_id is a list", job(98, task_id=f'[ "{task_id}" ]')),
        ("a job whose description is an object", job(99, description='{ "text" : "a" }')),
        ("a job whose priority is text", job(100, priority='"1"')),
        ("a job whose priority is true", job(101, priority="true")),
        ("a job whose priority is 1.5", job(102, priority="1.5")),
        ("a job whose priority is null", job(103, priority="null")),
        ("a job whose description is null", job(104, description="null")),
        ("a job whose task_id is null", job(105, task_id="null")),
    ]
    return [Entry(what, raw) for what, raw in sorts]


def push(lab: JobsLab, bad: list[Entry]) -> None:
    """Push these on the queue."""
    lab.ask(lambda r: r.lpush(QUEUE, *(entry.raw for entry in bad)))
    lab.tell(
        f"Pushed {len(bad)} entries that are no job: {', '.join(entry.what for entry in bad)}."
    )


def expect_passed_over(lab: JobsLab, bad: list[Entry], good: Job, worker: JobsWorker) -> None:
    """The worker gets to the good job behind these and does its work, and none for these."""
    expected = f"{worker.name} puts aside what is no job, and goes on to {good}."
    worker.wait(
        lambda _: worker.calls or lab.world.refused_evidence().lines or _goes_round(worker, bad),
        lab.budgets.work,
    )  # fmt: skip
    _expect_none_executed(lab, good, worker)
    if not worker.alive:
        left = {*lab.queued(), *aside(lab)}
        killer = next((entry for entry in bad if entry.raw not in left), None)
        if killer is not None:
            expected = f"{worker.name} puts aside {killer.what}, and goes on."
        worker.fail_if_ended(expected)
    if not worker.calls:
        raise lab.finding(
            "task-never-executed", expected,
            f"It asked for a job {worker.polls()} times and did not get there.",
            _kept_evidence(lab, bad), worker.statement_evidence(), worker.log_evidence(),
        )  # fmt: skip
    lab.world.next_call(good, worker).finish()
    lab.expect_result(good)
    _expect_none_executed(lab, good, worker)


def _goes_round(worker: JobsWorker, bad: list[Entry]) -> bool:
    """Whether it has asked so often that it must have had each of them several times."""
    return worker.polls() > ASKED * (len(bad) + 1)


def _expect_none_executed(lab: JobsLab, good: Job, worker: JobsWorker) -> None:
    calls = [call for call in worker.calls if call.task_id != good.id]
    refused = lab.world.refused_evidence()
    if not calls and not refused.lines:
        return
    raise lab.finding(
        "malformed-executed", "No work is done for what is no job.",
        f"{worker.name} has called the outside world for it.",
        Evidence("What it sent", tuple(str(call.task) for call in calls[:3])), refused,
        worker.statement_evidence(), worker.log_evidence(),
    )  # fmt: skip


def expect_kept(lab: JobsLab, bad: list[Entry], worker: JobsWorker) -> None:
    """Each of these is in the list for malformed entries now, byte for byte."""

    def missing() -> list[Entry]:
        there = aside(lab)
        return [entry for entry in bad if entry.raw not in there]

    wait_until(lab, lambda: not missing() or not worker.alive or _goes_round(worker, bad))
    worker.fail_if_ended(f"{worker.name} puts aside what is no job, and goes on.")
    lost = missing()
    if lost:
        count = f"{len(lost)} of {len(bad)} {'is' if len(lost) == 1 else 'are'} not there."
        raise lab.finding(
            "malformed-not-kept",
            f"What is no job is in the list {MALFORMED} now, byte for byte as it came.",
            count,
            _kept_evidence(lab, lost), _aside_evidence(lab), worker.log_evidence(),
        )  # fmt: skip


def aside(lab: JobsLab) -> list[bytes]:
    """What has been put aside; nothing, if that is no list."""
    try:
        return lab.queued(MALFORMED)
    except redis.ResponseError:
        return []


def _kept_evidence(lab: JobsLab, of: list[Entry]) -> Evidence:
    there, queued = aside(lab), lab.queued()
    lines = []
    for entry in of[:6]:
        where = "put aside" if entry.raw in there else (
            "in the queue" if entry.raw in queued else "nowhere")  # fmt: skip
        lines.append(f"{where}: {entry.what}: {_shown(entry.raw)}")
    if len(of) > 6:
        lines.append(f"(and {len(of) - 6} more)")
    return Evidence("What was pushed, and where it is now", tuple(lines))


def _aside_evidence(lab: JobsLab) -> Evidence:
    kind = lab.ask(lambda r: r.type(MALFORMED)).decode()
    if kind not in ("list", "none"):
        return Evidence(f"What is at {MALFORMED}", (f"(a {kind})",))
    there = aside(lab)
    lines = [_shown(raw) for raw in there[:3]] or ["(nothing)"]
    return Evidence(f"What is in {MALFORMED}", tuple(lines))


def _shown(raw: bytes, most: int = 120) -> str:
    text = raw.decode("utf-8", "backslashreplace")
    return text if len(text) <= most else text[:most] + "…"
