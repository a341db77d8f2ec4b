"""Exercise 3b: the queue. Claiming, two workers at once, and the recovery of stuck tasks."""

from __future__ import annotations

import re

from graders.harness.check import check
from graders.harness.worker import asks_for_tasks, times
from graders.lab03 import race

ROOT = "completes_a_pending_task"
HOUR = 3600
NAME = "night-shift-7"  # nothing that a worker would call itself
TECHNIQUE = re.compile(r"\bfor\s+(no\s+key\s+)?update\b.*\bskip\s+locked\b", re.IGNORECASE)


@check("3b", points=3, needs=[ROOT])
def test_shows_its_claim(lab):
    """While a task is worked on, everybody can see that it is, and by whom.

    The row says “processing”, assigned_worker holds the worker's WORKER_ID, and updated_at is the
    time of the claim. A claim that is not committed is seen by nobody, neither by a person who
    looks for a stuck task nor by the recovery.
    """
    task = lab.add_task()
    worker = lab.start_worker(env={"WORKER_ID": NAME}, told=f"its WORKER_ID is “{NAME}”")
    call = lab.world.next_call(task)
    row = lab.row(task)
    evidence = (lab.row_evidence(task), worker.statement_evidence())
    if row["status"] != "processing":
        raise lab.finding(
            "claim-not-visible",
            f"While {worker.name} works on {task}, the row says “processing” to everybody.",
            f"Seen from another connection it says “{row['status']}”.",
            *evidence,
        )
    if row["assigned_worker"] != NAME:
        raise lab.finding(
            "wrong-worker-name",
            f"assigned_worker holds the WORKER_ID of the worker, “{NAME}”.",
            f"It holds “{row['assigned_worker']}”."
            if row["assigned_worker"] is not None
            else "It holds nothing.",
            *evidence,
        )
    if row["updated_at"] == row["created_at"]:
        raise lab.finding(
            "claim-time-not-set",
            "The claim sets updated_at to the time of the claim.",
            "updated_at is what it was before the claim.",
            *evidence,
        )
    call.finish()
    lab.expect_status(task, "completed")


@check("3b", points=3, needs=[ROOT])
def test_holds_no_transaction_during_work(lab):
    """While the work is done, no transaction is open.

    Work can take minutes. An open transaction keeps its locks, and keeps PostgreSQL from cleaning
    up anything that is younger.
    """
    task = lab.add_task()
    worker = lab.start_worker()
    call = lab.world.next_call(task)
    worker.wire.settle(lab.budgets.work)
    open_ones = _in_transaction(worker)

    def ended(_):  # what a heartbeat or a reaper has open on its own connection ends by itself
        still = {c.number for c in _in_transaction(worker)}
        open_ones[:] = [c for c in open_ones if c.number in still]
        return not open_ones

    worker.wait(ended, lab.budgets.work)
    if open_ones:
        raise lab.finding(
            "transaction-open-during-work",
            f"While {worker.name} works on {task}, none of its connections is in a transaction.",
            "Its connection is in one."
            if len(worker.wire.connections) == 1
            else f"{len(open_ones)} of its {len(worker.wire.connections)} connections "
            f"{'is' if len(open_ones) == 1 else 'are'} in one.",
            worker.statement_evidence(),
        )
    call.finish()
    lab.expect_status(task, "completed")


@check("3b", points=5, needs=[ROOT], workers=2)
def test_never_executes_a_task_twice(lab):
    """Two workers that poll at the same moment never execute the same task.

    Twice an email, twice an invoice. Two workers are led side by side, statement by statement,
    and then both wait for the same row.
    """
    race.in_step(lab)
    race.for_one_row(lab)


@check("3b", points=3, needs=[ROOT], workers=3)
def test_never_waits_for_a_lock(lab):
    """A worker never waits for another worker's lock while another task is free.

    Workers that queue behind one lock do the work of one worker, however many there are.
    """
    race.second_worker_while_first_claims(lab)


@check("3b", points=2, needs=[ROOT])
def test_says_skip_locked(lab):
    """The claim uses FOR UPDATE SKIP LOCKED.

    This is the technique of this exercise. What it is good for is what the other checks look at.
    """
    task = lab.add_task()
    worker = lab.start_worker()
    call = lab.world.next_call(task)
    # A statement that found no row (tag "UPDATE 0") has claimed none: it looked for stuck tasks.
    said = [step for step in worker.steps() if asks_for_tasks(step)]
    if not any(TECHNIQUE.search(s.words) and not _found_nothing(s.tags) for s in said):
        raise lab.finding(
            "no-skip-locked",
            f"The statement by which {worker.name} finds {task} says FOR UPDATE SKIP LOCKED.",
            "No statement up to the claim that found a row does.",
            worker.statement_evidence(),
        )
    call.finish()
    lab.expect_status(task, "completed")


def _in_transaction(worker):
    return [c for c in worker.wire.connections if c.status in ("T", "E")]


def _found_nothing(tags: tuple[str, ...]) -> bool:
    """Whether the server said that no row was found or changed, and of none of its statements more.

    Tags without a number (BEGIN, DO, DECLARE CURSOR) do not tell; they count as found.
    """
    told = [tag.rpartition(" ")[2] for tag in tags]
    return bool(told) and all(count == "0" for count in told)


@check("3b", points=5, needs=[ROOT], workers=2)
def test_recovers_the_task_of_a_killed_worker(lab):
    """The task of a worker that was killed is taken up by another and completed.

    Machines fail in the middle of the work. After WORKER_STUCK_AFTER a task in processing goes
    back to pending; without that rule it stays in processing for ever.
    """
    stuck_after = 0.5 * lab.budgets.factor
    # The one that recovers was ready before: what a worker does at its start is no recovery.
    survivor = lab.start_worker(stuck_after=stuck_after)
    polls = survivor.wire.hold(asks_for_tasks, times=None)
    if polls.wait_reached(lab.budgets.work) is None:
        survivor.expect_polls(2)
    task = lab.add_task()
    victim = lab.start_worker(stuck_after=stuck_after)
    lab.world.next_call(task, victim)
    victim.kill()
    polls.release()
    call = lab.world.wait_call(task, survivor, lab.budgets.work)
    if call is None:
        expected = (
            f"{survivor.name} takes up {task}, which {victim.name} had left behind, once "
            f"WORKER_STUCK_AFTER ({stuck_after:.1f} s) is over."
        )
        survivor.fail_if_ended(expected)
        ended = lab.final_status(task)
        raise lab.finding(
            "task-not-recovered",
            expected,
            f"It did not; {task} is marked “{ended}” all the same."
            if ended
            else f"{lab.budgets.work:.0f} s later it had not.",
            lab.row_evidence(task),
            survivor.statement_evidence(),
            survivor.log_evidence(),
        )
    call.finish()
    lab.expect_status(task, "completed")


@check("3b", points=2, needs=[ROOT], workers=2)
def test_leaves_the_task_of_a_living_worker(lab):
    """Within WORKER_STUCK_AFTER, the task of a living worker is left alone.

    What counts is the time since the claim, an hour here. The task itself was created two hours
    ago: how old a task is does not say how long it has been worked on.
    """
    task = lab.add_task()
    first = lab.start_worker(stuck_after=HOUR)
    call = lab.world.next_call(task, first)
    claimed = lab.row(task)
    second = lab.start_worker(stuck_after=HOUR)
    race.wait_until_polled(lab, second, 2)
    sentinel = lab.add_task()
    race.wait_until_polled(lab, second, race.ENOUGH)
    row = lab.row(task)
    took_it = any(each.task_id == task.id for each in second.calls)
    same = all(row[column] == claimed[column] for column in ("status", "assigned_worker"))
    if took_it or not same:
        raise lab.finding(
            "living-task-taken",
            f"{second.name} leaves {task} to {first.name}, which has been working on it for less "
            "than WORKER_STUCK_AFTER (an hour).",
            f"{second.name} took it." if took_it
            else f"Meanwhile the row has changed from “{claimed['status']}” to “{row['status']}”, "
            f"and assigned_worker from “{claimed['assigned_worker']}” to "
            f"“{row['assigned_worker']}”.",
            lab.row_evidence(task),
            second.statement_evidence(),
        )  # fmt: skip
    call.finish()
    lab.world.answer_all()
    lab.expect_status(task, "completed")
    lab.expect_status(sentinel, "completed")


@check("3b", points=2, needs=["never_executes_a_task_twice"], workers=2)
def test_shares_the_work(lab):
    """Two workers share ten tasks; each task is executed once, and each worker has a share.

    This is what a second worker is started for.
    """
    tasks = [lab.add_task() for _ in range(10)]
    # Each worker's first call is held until both have called: so both have a share for certain.
    held = []
    for _ in range(2):
        worker = lab.start_worker(ready=False)
        worker.wait(
            lambda _, who=worker: who.calls or who.polls() >= race.ENOUGH,
            lab.budgets.boot + lab.budgets.work,
        )
        call = lab.world.wait_call(None, worker, 0)
        if call is None:
            expected = f"{worker.name} takes a task of its own: ten are there, for two workers."
            worker.fail_if_ended(expected)
            raise lab.finding(
                "one-worker-idle",
                expected,
                f"It polled {times(worker.polls())} and took none.",
                lab.row_evidence(*tasks[:3]),
                worker.statement_evidence(),
                worker.log_evidence(),
            )
        held.append(call)
    for call in held:
        call.finish()
    lab.world.answer_all()
    for task in tasks:
        lab.expect_status(task, "completed")
    race.expect_each_once(lab, tasks)
