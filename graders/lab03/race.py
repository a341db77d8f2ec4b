"""Two workers at the same moment: led side by side, not hoped for.

What is explored here is the one interleaving in which both are in step, the race inside a single
statement, and a second worker at each moment at which the first is inside a transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from graders.harness import history as h
from graders.harness.worker import Worker, asks_for_tasks, times

HOUR = 3600
NEWS = (h.STEP_DELIVERED, h.CALL_ARRIVED, h.EXIT)
ENOUGH = 4  # polls after which a worker that has found no task is believed to find none
MOMENTS = 6  # of a claim at which a second worker is tried; a claim has one or two


def expect_each_once(lab, tasks: Iterable) -> None:
    """No task has been executed more than once."""
    for task in tasks:
        calls = lab.world.calls_of(task)
        if len(calls) > 1:
            who = " and ".join(dict.fromkeys(call.process for call in calls))
            raise lab.finding(
                "task-executed-twice",
                f"{task} is executed once.",
                f"It was executed {len(calls)} times, by {who}.",
                lab.row_evidence(task),
                *(worker.statement_evidence(4) for worker in lab.workers),
                at=lab.world.arrival(calls[1]),
            )


def in_step(lab) -> None:
    """One task, two workers, each statement of both held until both have said theirs."""
    task = lab.add_task()
    workers = [lab.start_worker(ready=False, hold=asks_for_tasks) for _ in range(2)]
    lab.tell("Led both side by side: each statement's answer was held until both had one.")
    deadline = time.monotonic() + lab.budgets.boot + lab.budgets.work
    while time.monotonic() < deadline:
        _wait_until_settled(lab, workers)
        if all(_has_seen(lab, worker) for worker in workers):
            break
        for worker in workers:
            worker.let_go()
    for worker in workers:
        worker.hold_no_more()
        worker.fail_if_ended(f"{worker.name} polls while another worker does.")
    lab.world.answer_all()
    lab.expect_status(task, "completed")
    expect_each_once(lab, [task])


def for_one_row(lab) -> None:
    """Both ask for the same row while the grader holds its lock; then it lets go.

    A race inside one statement has no step in between at which a worker could be held.
    """
    workers = lab.workers[:2]
    holds = [worker.wire.hold(asks_for_tasks, times=None) for worker in workers]
    for worker, hold in zip(workers, holds, strict=True):
        if hold.wait_reached(lab.budgets.work) is None:
            worker.fail_if_ended(f"{worker.name} goes on polling.")
    task = lab.add_task()
    locker = lab.connect()
    with locker.transaction(force_rollback=True):
        locker.execute("SELECT 1 FROM tasks WHERE id = %s FOR UPDATE", (task.id,))
        lab.tell(f"Locked the row of {task} until both had asked for it, and then let go.")
        since = len(lab.history)
        for hold in holds:
            hold.release()
        deadline = time.monotonic() + lab.budgets.work
        while time.monotonic() < deadline and not lab.session.stopping:
            if all(
                worker.polls(since) >= 2 or not worker.alive or _waits(lab, worker)
                for worker in workers
            ):
                break
            lab.history.wait(lambda e: e.kind == h.STEP_DELIVERED, 0.02, len(lab.history))
    sentinel = lab.add_task()
    lab.expect_status(task, "completed")
    lab.expect_status(sentinel, "completed")
    for worker in workers:  # one of them may have the row and not have called yet
        worker.expect_gone_on()
    expect_each_once(lab, [task, sentinel])


def second_worker_while_first_claims(lab) -> None:
    """A second worker finds a task of its own whenever the first is inside a transaction."""
    for _ in range(2):
        lab.add_task()
    first = lab.start_worker(
        poll_interval=HOUR, ready=False, hold=lambda s: asks_for_tasks(s) and s.status == "T"
    )
    first.expect_ready(h.STEP_ARRIVED)
    tried = 0
    while tried < MOMENTS:
        step = first.wait_held_or_call(lab.budgets.work)
        if step is None:
            break
        if not _holds_a_lock(lab, first):  # nobody could wait for it
            first.let_go()
            continue
        tried += 1
        lab.tell(f"Held {first.name} after “{_shown(step.words)}”, inside its transaction.")
        second = lab.start_worker(poll_interval=0.1, ready=False)
        _expect_own_task(lab, first, second)
        second.kill()
        lab.add_task()
        first.let_go()
    first.hold_no_more()
    call = lab.world.next_call(worker=first)
    call.finish()


def _expect_own_task(lab, first: Worker, second: Worker) -> None:
    """The second worker calls the world without waiting for a lock of the first."""
    deadline = time.monotonic() + lab.budgets.boot + lab.budgets.work
    while time.monotonic() < deadline and not lab.session.stopping:
        if lab.world.wait_call(None, second, 0.02) is not None:
            return
        if _waits(lab, second, first):
            raise lab.finding(
                "waits-for-lock",
                f"{second.name} takes another task while {first.name} holds the lock of one.",
                f"It waits for the lock that {first.name} holds (pg_blocking_pids names it).",
                second.statement_evidence(),
                first.statement_evidence(),
            )
        second.fail_if_ended(f"{second.name} takes a task.")
        if second.polls() >= ENOUGH and not second.calls:
            break
    raise lab.finding(
        "one-worker-idle",
        f"{second.name} takes a task of its own while {first.name} is claiming another: two are "
        "pending.",
        f"It polled {times(second.polls())} and took none.",
        second.statement_evidence(),
        second.log_evidence(),
    )


def wait_until_polled(lab, worker: Worker, count: int) -> None:
    """Wait until the worker has polled so often from now on, has a task in hand, or is blocked.

    Blocked it leaves everything alone; that it waits for a lock is for another check to judge.
    """
    since = len(lab.history)
    deadline = time.monotonic() + lab.budgets.work
    while time.monotonic() < deadline and not lab.session.stopping:
        if worker.calls or worker.polls(since) >= count or _waits(lab, worker):
            return
        worker.fail_if_ended(f"{worker.name} goes on polling.")
        lab.history.wait(lambda e: e.kind in NEWS, 0.05, len(lab.history))
    worker.expect_polls(count, since)


def _wait_until_settled(lab, workers: list[Worker]) -> None:
    """Until each worker is held, waits for a lock, has called, has polled in vain or has ended."""
    deadline = time.monotonic() + lab.budgets.boot
    while time.monotonic() < deadline and not lab.session.stopping:
        since = len(lab.history)
        if all(w.held_step or _has_seen(lab, w) or _waits(lab, w) for w in workers):
            return
        lab.history.wait(lambda e: True, 0.02, since)


def _has_seen(lab, worker: Worker) -> bool:
    """Whether it has come to an end with the task: its call, two empty polls, or its exit."""
    return bool(worker.calls) or worker.polls() >= 3 or not worker.alive


def _waits(lab, worker: Worker, for_whom: Worker | None = None) -> bool:
    """Whether one of its backends waits for a lock (of that other worker)."""
    for backend in worker.backends:
        blockers = lab.blocked_by(backend)
        if blockers and (for_whom is None or set(blockers) & for_whom.backends):
            return True
    return False


def _holds_a_lock(lab, worker: Worker) -> bool:
    """Whether one of its transactions has locked rows (it has an id then), a table or a key."""
    return bool(lab.sql(
        "SELECT 1 FROM pg_locks WHERE pid = ANY(%s) AND granted AND (locktype IN ('transactionid',"
        " 'advisory') OR locktype = 'relation' AND mode NOT IN ('AccessShareLock', 'RowShareLock',"
        " 'RowExclusiveLock', 'SIReadLock')) LIMIT 1", (list(worker.backends),),
    ))  # fmt: skip


def _shown(words: str) -> str:
    return words if len(words) <= 60 else words[:57] + "…"
