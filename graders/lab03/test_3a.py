"""Exercise 3a: polling and graceful shutdown."""

from __future__ import annotations

from graders.harness.check import check
from graders.harness.worker import asks_for_tasks, times
from graders.lab03 import logs
from graders.lab03.refusal import expect_refusal

ROOT = "completes_a_pending_task"
HOUR = 3600


@check("3a", points=5)
def test_completes_a_pending_task(lab):
    """A pending task is carried out and marked completed.

    This is what a worker is for. Every other check needs it.
    """
    task = lab.add_task()
    worker = lab.start_worker()
    call = lab.world.next_call(task)
    if lab.row(task)["status"] == "completed":
        raise lab.finding(
            "completed-before-the-work",
            f"{task} is marked completed after its work is done.",
            "It was marked completed while its work was still under way.",
            lab.row_evidence(task),
            worker.statement_evidence(),
        )
    call.finish()
    lab.expect_status(task, "completed")


@check("3a", points=1, needs=[ROOT])
def test_starts_and_says_so(lab):
    """The worker connects at start, and its log names the poll interval.

    Whoever looks at a worker at three in the morning reads its first lines first.
    """
    worker = lab.start_worker(poll_interval=0.7)
    logs.expect_line(
        worker,
        "A line of the start names the poll interval, 0.7 (seconds).",
        logs.names_the_number("0.7", "700"),
    )


@check("3a", points=3, needs=[ROOT], workers=3)
def test_refuses_to_start_without_a_database(lab):
    """Without a usable database the worker refuses to start, and says why.

    A worker that limps on with no database, or ends with status 0, looks healthy to whatever has
    started it. The message names the variable or the host, and never the password.
    """
    expect_refusal(lab)


@check("3a", points=3, needs=[ROOT])
def test_records_failed_work_and_goes_on(lab):
    """Work that fails is marked failed, and the worker goes on with the next task.

    One bad task must not stop all the others, and must not look as if it had been done.
    """
    tasks = {task.id: task for task in (lab.add_task(), lab.add_task())}
    worker = lab.start_worker()
    call = lab.world.next_call()
    bad = tasks.pop(call.task_id)
    call.fail()
    call = lab.world.next_call()
    if call.task_id == bad.id:
        raise lab.finding(
            "task-executed-twice",
            f"{bad}, whose work has failed, is marked failed and not tried again.",
            f"{worker.name} did its work a second time.",
            lab.row_evidence(bad),
            worker.statement_evidence(),
        )
    call.finish()
    (good,) = tasks.values()
    lab.expect_status(good, "completed")
    lab.expect_status(bad, "failed")


@check("3a", points=3, needs=[ROOT])
def test_takes_the_oldest_first(lab):
    """Of several pending tasks, the oldest is taken first.

    Without an order the database may return any row, and under load some task waits for ever.
    """
    lab.use_no_index()  # or an order that nobody has asked for could come from the index
    ages = {60: None, 180: None, 120: None, 240: None}
    for age in ages:
        ages[age] = lab.add_task(age=age)
    due = [ages[age] for age in sorted(ages, reverse=True)]
    lab.start_worker()
    for task in due:
        call = lab.world.next_call()
        if call.task_id != task.id:
            oldest_first = ", ".join(t.label for t in due)
            raise lab.finding(
                "wrong-order",
                f"The tasks are taken in the order of created_at: {oldest_first}.",
                f"{call.label} was taken when {task} was the oldest pending task.",
                lab.order_evidence(due),
                lab.workers[0].statement_evidence(),
            )
        call.finish()
    lab.expect_status(due[-1], "completed")


@check("3a", points=2, needs=[ROOT])
def test_works_through_a_backlog(lab):
    """While there are tasks, the worker takes the next one without waiting.

    A worker that waits its interval after each task does at most one task per interval, however
    long the queue. Here the interval is an hour.
    """
    tasks = [lab.add_task() for _ in range(3)]
    worker = lab.start_worker(poll_interval=HOUR)
    lab.world.next_call(worker=worker).finish()
    for done in range(1, len(tasks)):
        call = lab.world.wait_call(None, worker, lab.budgets.work)
        if call is None:
            expected = f"{worker.name} goes on with the next task as soon as one is done."
            worker.fail_if_ended(expected)
            raise lab.finding(
                "paused-between-tasks",
                expected,
                f"{lab.budgets.work:.0f} s after task {done} of {len(tasks)} was done it had not "
                "begun another (WORKER_POLL_INTERVAL is an hour).",
                lab.row_evidence(*tasks),
                worker.statement_evidence(),
                worker.log_evidence(),
            )
        call.finish()
    for task in tasks:
        lab.expect_status(task, "completed")


@check("3a", points=3, needs=[ROOT], workers=2)
def test_waits_between_empty_polls(lab):
    """With nothing to do, the worker waits WORKER_POLL_INTERVAL between two polls.

    A worker that asks again at once keeps a core and the database busy doing nothing.
    """
    slow = lab.start_worker(poll_interval=HOUR)
    quick = lab.start_worker(poll_interval=0.1)
    # The hour of the one is not waited for: five polls of the other are time enough to see
    # whether it waits at all. A poll or two around its start are its own affair.
    quick.wait(lambda _: quick.polls() >= 5 or slow.polls() > 2, lab.budgets.work)
    for worker in (slow, quick):
        worker.fail_if_ended(f"{worker.name} lives on while it has nothing to do.")
    if slow.polls() > 2:
        raise lab.finding(
            "busy-polling",
            f"{slow.name}, with WORKER_POLL_INTERVAL={HOUR} and nothing to do, polls once and "
            "then waits.",
            f"It polled {times(slow.polls())} while {quick.name}, whose interval is 0.1 s, "
            f"polled {times(quick.polls())}.",
            slow.statement_evidence(),
        )
    polled = quick.poll_times()[1:5]
    if len(polled) < 4:
        raise lab.finding(
            "slow-polling",
            f"{quick.name}, with WORKER_POLL_INTERVAL=0.1, polls again after 0.1 s.",
            f"In {lab.budgets.work:.0f} s it polled {times(quick.polls())}.",
            quick.statement_evidence(),
        )
    if polled[-1] - polled[0] < 0.5 * 0.1 * 3:  # half of it: some spread their polls at random
        raise lab.finding(
            "busy-polling",
            f"{quick.name}, with WORKER_POLL_INTERVAL=0.1 and nothing to do, waits 0.1 s between "
            "two polls.",
            f"Three intervals took {1000 * (polled[-1] - polled[0]):.0f} ms together.",
            quick.statement_evidence(),
        )


def finishes_the_task_in_hand(lab, send):
    """The scenario of the two checks below, with the signal sent by `send(worker)`."""
    task = lab.add_task()
    worker = lab.start_worker()
    call = lab.world.next_call(task)
    send(worker)
    worker.expect_alive()
    call.finish()
    worker.expect_exit(code=0, task=task)


@check("3a", points=4, needs=[ROOT], workers=2)
def test_finishes_the_task_on_sigterm(lab):
    """A worker told to stop by SIGTERM finishes the task in its hands first.

    Every deploy sends SIGTERM. A worker that drops its task makes each deploy lose work.
    """

    def deploy(worker):
        worker.terminate()
        # While its successor starts, a worker that gives up its task has time to do so.
        lab.start_worker(ready=False, told="as a deploy does").wait_connected()

    finishes_the_task_in_hand(lab, deploy)


@check("3a", points=2, needs=[ROOT], workers=2)
def test_finishes_the_task_on_sigint(lab):
    """Ctrl-C (SIGINT) stops the worker in the same way.

    Whoever tries a worker out by hand ends it with Ctrl-C, and wants no task left half done.
    """
    finishes_the_task_in_hand(lab, lambda worker: worker.interrupt())


@check("3a", points=2, needs=["finishes_the_task_on_sigterm"])
def test_claims_nothing_after_sigterm(lab):
    """After SIGTERM the worker takes no other task, even if more are waiting.

    What starts a deploy waits for the worker to stop, ten seconds as a rule, and then kills it.
    """
    tasks = {task.id: task for task in [lab.add_task() for _ in range(3)]}
    worker = lab.start_worker(poll_interval=HOUR)
    call = lab.world.next_call()
    first = tasks.pop(call.task_id)
    others = [task for task in tasks.values() if not lab.ever_claimed(task)]
    worker.terminate()
    worker.expect_alive()
    call.finish()
    after = lab.world.wait_call(None, worker, lab.budgets.shutdown)
    taken = next((t for t in others if lab.ever_claimed(t)), None)
    if after is not None or taken is not None:
        label = after.label if after else taken.label
        raise lab.finding(
            "claimed-after-stop",
            f"{worker.name} finishes {first} and takes nothing more.",
            f"After SIGTERM it also took {label}.",
            lab.row_evidence(first, *others),
            worker.statement_evidence(),
        )
    worker.expect_exit(code=0, task=first)


def idle_worker(lab):
    """A worker that has done a task and polls for an hour from now: its start is behind it."""
    task = lab.add_task()
    worker = lab.start_worker(poll_interval=HOUR)
    call = lab.world.next_call(task)
    since = len(lab.history)
    call.finish()
    lab.expect_status(task, "completed")
    # Its record, and then a poll.
    worker.wait(
        lambda _: sum(map(asks_for_tasks, worker.steps(since=since))) >= 2, lab.budgets.work
    )
    worker.expect_quiet()
    return worker


@check("3a", points=3, needs=[ROOT])
def test_stops_at_once_when_idle(lab):
    """An idle worker stops at once, whatever its poll interval.

    The interval is an hour here. A wait that a signal does not end makes every deploy wait for it.
    """
    worker = idle_worker(lab)
    worker.terminate()
    worker.expect_exit(code=0)


@check("3a", points=1, needs=["stops_at_once_when_idle"])
def test_closes_its_connection(lab):
    """Before it ends, the worker closes its database connections.

    A connection that just breaks off costs the server a while to notice, and it fills its log.
    """
    worker = idle_worker(lab)
    opened = worker.connections_opened()
    worker.terminate()
    worker.expect_exit(code=0)
    worker.expect_closed(opened)


@check("3a", points=3, needs=["finishes_the_task_on_sigterm"])
def test_logs_tell_the_story(lab):
    """The logs tell the story: an empty poll, a claim, a completion, and the shutdown.

    Logs are all that is left of a night when something went wrong. A line that is not flushed is
    not there when it is needed.
    """
    worker = lab.start_worker(ready=False, hold_before=asks_for_tasks)
    worker.expect_held()
    begun = worker.read_log()
    lab.tell(f"Held its first poll until the log of {worker.name} had been read.")
    worker.hold_no_more()
    worker.expect_polls(3)
    logs.expect_lines(
        worker, max(begun, 1) + 1, "There is a line for the start, and one for an empty poll."
    )
    task = lab.add_task()
    call = lab.world.next_call(task)
    logs.expect_line(
        worker,
        f"While {task} is being worked on, a line names its id and its title.",
        logs.names(task.id, task.title),
    )
    before = worker.read_log()
    worker.terminate()
    worker.expect_alive()
    call.finish()
    worker.expect_exit(code=0, task=task)
    logs.expect_line(
        worker,
        f"After {task} is done, a line names its id and how long it took.",
        logs.names_and_a_number(task.id, ignore=(worker.name,)),
        since=before,
    )
    # Some say that they are stopping when the signal comes, others when the task is done; and two
    # channels have no common order. So the lines are counted.
    logs.expect_lines(
        worker,
        before + 3,
        f"From SIGTERM on there are three lines: the shutdown has begun, {task} is done, the "
        "shutdown is complete.",
        since=before,
    )


@check("3a", points=1, needs=[ROOT])
def test_handles_email_tasks(lab):
    """A task of type “email” is handled, and its log line names the type and the id.

    A new type of task should be one new handler, not another copy of the worker.
    """
    task = lab.add_task(type="email")
    worker = lab.start_worker()
    call = lab.world.next_call(task)
    logs.expect_line(
        worker, f"A line names the type “email” and the id of {task}.", logs.names("email", task.id)
    )
    call.finish()
    lab.expect_status(task, "completed")


@check("3a", points=1, needs=["records_failed_work_and_goes_on"])
def test_fails_an_unknown_type(lab):
    """A task of an unknown type is marked failed with a clear log line, and the worker goes on.

    Sooner or later somebody adds a type before every worker knows it.
    """
    unknown = lab.add_task(type="teleport")
    known = lab.add_task()
    worker = lab.start_worker()
    call = lab.world.next_call()
    if call.task_id == unknown.id:
        raise lab.finding(
            "unknown-type-executed",
            f"{unknown}, whose type “teleport” no handler knows, is not carried out.",
            "Its work was done as if it were an ordinary task.",
            worker.log_evidence(),
        )
    call.finish()
    lab.expect_status(known, "completed")
    lab.expect_status(unknown, "failed")
    logs.expect_line(
        worker,
        f"A line names the type “teleport” and the id of {unknown}.",
        logs.names("teleport", unknown.id),
    )


@check("3a", points=3, needs=[ROOT])
def test_survives_a_database_restart(lab):
    """When PostgreSQL restarts, the worker reconnects and goes on (or exits for a successor).

    Databases are restarted for every upgrade. A worker that lives on without a connection is worse
    than one that dies: nobody starts another.
    """
    worker = lab.start_worker(poll_interval=0.2)
    worker.expect_quiet()
    worker.restart_database()
    task = lab.add_task()
    lab.world.answer_all()
    if lab.wait_for_row(task, lambda row: row["status"] == "completed"):
        return
    if worker.alive:
        raise lab.finding(
            "dead-connection",
            f"{worker.name} connects again after its connections were cut, and works {task}.",
            f"It lives on, but {lab.budgets.work:.0f} s later {task} was not done.",
            lab.row_evidence(task),
            worker.statement_evidence(),
            worker.log_evidence(),
        )
    if worker.process.exit.code == 0:
        raise lab.finding(
            "worker-exited",
            f"{worker.name} connects again, or ends with a status that is not 0.",
            "It ended with exit status 0, so nobody would start another.",
            worker.log_evidence(),
        )
    lab.start_worker()
    lab.expect_status(task, "completed")
