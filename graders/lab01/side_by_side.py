"""Several workers at the same moment: led side by side, not hoped for."""

from __future__ import annotations

from graders.harness.jobs import JobsLab, JobsWorker, asks_for_jobs
from graders.harness.program import times
from graders.harness.room import HeldCall

ENOUGH = 6  # questions after which a worker that has got no job is believed to get none


def first_calls(lab: JobsLab, count: int) -> list[HeldCall]:
    """Start so many workers; each one's first call, held, with a job of its own.

    Each answer about the queue is held until all have one, so that who looks first and takes
    afterwards looks when the others do.
    """
    workers = [lab.start_worker(ready=False, hold=asks_for_jobs) for _ in range(count)]
    lab.tell("Led them side by side: each answer about the queue was held until all had one.")
    budget = lab.budgets.boot + lab.budgets.work
    for _ in range(ENOUGH + 1):
        lab.history.wait_until(
            lambda _: all(worker.held_step or _over(worker) for worker in workers), budget
        )
        for worker in workers:
            worker.let_go()
        if all(map(_over, workers)):
            break
        # What follows from it (a call, a question) is waited for above, by then in a short time.
        budget = lab.budgets.work
    expect_each_once(lab)
    held = []
    for worker in workers:
        call = lab.world.wait_call(None, worker, 0)
        if call is None:
            expected = f"{worker.name} takes a job of its own: twelve are there, for {count}."
            worker.fail_if_ended(expected)
            raise lab.finding(
                "one-worker-idle",
                expected,
                f"It asked the queue {times(worker.polls())} and took none.",
                *(each.statement_evidence(4) for each in workers),
                worker.log_evidence(),
            )
        held.append(call)
    for worker in workers:
        worker.hold_no_more()
    expect_each_once(lab)
    return held


def expect_each_once(lab: JobsLab) -> None:
    """No job has been executed more than once."""
    seen: dict[str, str] = {}
    for call in lab.world.calls:
        label = lab.label(call.task_id)
        if call.task_id in seen:
            who = " and ".join(dict.fromkeys((seen[call.task_id], call.process)))
            raise lab.finding(
                "task-executed-twice",
                f"{label} is executed once.",
                f"It was executed twice, by {who}.",
                *(worker.statement_evidence(4) for worker in lab.workers),
                at=lab.world.arrival(call),
            )
        seen[call.task_id] = call.process


def _over(worker: JobsWorker) -> bool:
    """Whether it has come to an end with the queue: its call, nothing, or its exit."""
    return bool(worker.calls) or worker.polls() >= ENOUGH or not worker.alive
