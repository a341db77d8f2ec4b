"""Exercise 1b: the worker."""

from __future__ import annotations

from datetime import UTC, datetime

from graders.harness.check import check
from graders.harness.explore.checks import explore
from graders.lab01 import malformed, results, waiting
from graders.lab01.moments import SETTING
from graders.lab01.refusal import expect_refusal

ROOT = "completes_a_job"
NAME = "night-shift-7"  # nothing that a worker would call itself
# A zone 14 hours ahead of UTC, written so that no table of zones is needed.
FAR_AWAY = "AWAY-14"


@check("1b", points=4)
def test_completes_a_job(lab):
    """A job in the queue is carried out, and its result is stored.

    This is what a worker is for. Every other check needs it.
    """
    job = lab.add_job()
    worker = lab.start_worker()
    call = lab.world.next_call(job)
    if lab.result(job) is not None:
        raise lab.finding(
            "completed-before-the-work",
            f"The result of {job} is stored after its work is done.",
            "It was stored while its work was still under way.",
            lab.evidence(job),
            worker.statement_evidence(),
        )
    call.finish()
    lab.expect_result(job)


@check("1b", points=4, needs=[ROOT], workers=2)
def test_stores_a_whole_result(lab):
    """The result says what was done, by whom and when, and is kept for 24 hours.

    Without the name nobody finds the worker that makes mistakes, a local time is wrong for
    everybody else, and a key without an end stays for ever.
    """
    job = lab.add_job("translate 'naïve' to 日本語")
    zone = f"TZ={FAR_AWAY}, 14 hours ahead of UTC"
    named = lab.start_worker(
        env={"WORKER_ID": NAME, "TZ": FAR_AWAY}, told=f"its WORKER_ID is “{NAME}”, and {zone}"
    )
    call = lab.world.next_call(job, named)
    other = lab.add_job()
    # While this one starts, a worker that notes the time before the work has time to show it.
    unnamed = lab.start_worker(
        env={"WORKER_ID": None, "TZ": FAR_AWAY}, told=f"without a WORKER_ID, and {zone}"
    )
    other_call = lab.world.next_call(other, unnamed)

    finished = datetime.now(UTC)
    call.finish()
    lab.expect_result(job)
    results.expect_whole(lab, job, named, NAME, finished, "its WORKER_ID")
    finished = datetime.now(UTC)
    other_call.finish()
    lab.expect_result(other)
    results.expect_whole(lab, other, unnamed, "worker-1", finished, "since WORKER_ID is not set")


@check("1b", points=2, needs=[ROOT])
def test_takes_the_oldest_first(lab):
    """Of several jobs in the queue, the oldest is taken first.

    What was pushed on the left is popped on the right. From the other side it is a stack, and
    under load the first job waits for ever.
    """
    jobs = [lab.add_job(priority=priority) for priority in (2, 0, 9, 1)]
    worker = lab.start_worker()
    for job in jobs:
        call = lab.world.next_call()
        if call.task_id != job.id:
            raise lab.finding(
                "wrong-order",
                f"The jobs are taken in the order in which they were pushed: "
                f"{', '.join(each.label for each in jobs)}.",
                f"{call.label} was taken when {job} was the oldest in the queue.",
                worker.statement_evidence(),
            )
        call.finish()
    lab.expect_result(jobs[-1])


@check("1b", points=3, needs=[ROOT], workers=3)
def test_waits_without_a_busy_loop(lab):
    """With nothing to do, the worker waits, and is there as soon as there is a job.

    A worker that asks again at once keeps a core and Redis busy doing nothing. One that waits for
    longer than its client library is prepared to takes its own waiting for a failure.
    """
    worker = lab.start_worker()
    waiting.expect_patience(lab, worker)
    job = lab.add_job()
    lab.world.next_call(job).finish()
    lab.expect_result(job)


@check("1b", points=3, needs=[ROOT], workers=3)
def test_refuses_to_start_without_redis(lab):
    """Without a usable Redis the worker refuses to start, and says why.

    A worker that limps on without its queue, or ends with status 0, looks healthy to whatever has
    started it. The message names the variable, or the host and the port.
    """
    expect_refusal(lab)


@check("1b", points=4, needs=[ROOT])
def test_puts_malformed_jobs_aside(lab):
    """What is no job is put aside as it came, and the worker goes on with the next one.

    If it ends the worker, it ends the next one too. If it goes back into the queue, it comes round
    for ever. If it is dropped, nobody finds out who sends such things.
    """
    task_id = "a8f5c1de-0000-4000-8000-5eedbadc0de5"
    bad = malformed.entries(task_id)
    malformed.push(lab, bad)
    good = lab.add_job()
    worker = lab.start_worker()
    malformed.expect_passed_over(lab, bad, good, worker)
    malformed.expect_kept(lab, bad, worker)


@check("1b", points=3, needs=[ROOT])
def test_records_failed_work_and_goes_on(lab):
    """Work that fails gets the result “failed”, and the worker goes on with the next job.

    One bad job must not stop all the others, must not look as if it had been done, and is not
    tried again by itself.
    """
    bad, good = lab.add_job(), lab.add_job()
    worker = lab.start_worker()

    def next_call():
        call = lab.world.next_call()
        _expect_once(lab, worker, bad)
        return call

    call = lab.world.next_call(bad)
    failed = datetime.now(UTC)
    call.fail()
    results.wait_until(lab, lambda: lab.result(bad) or len(lab.world.calls_of(bad)) > 1)
    _expect_once(lab, worker, bad)
    lab.expect_result(bad, "failed")
    results.expect_whole(lab, bad, worker, worker.name, failed, "its WORKER_ID")
    call = next_call()
    # If the bad job was given back to the queue, it comes before this one.
    last = lab.add_job()
    call.finish()
    lab.expect_result(good)
    next_call().finish()
    lab.expect_result(last)


def _expect_once(lab, worker, bad):
    if len(lab.world.calls_of(bad)) > 1:
        raise lab.finding(
            "task-executed-twice",
            f"{bad}, whose work has failed, is not tried again.",
            f"{worker.name} did its work a second time.",
            lab.evidence(bad),
            worker.statement_evidence(),
            worker.log_evidence(),
        )


@check("1b", points=3, needs=[ROOT], workers=3)
def test_waits_out_errors(lab):
    """While Redis is away the worker waits, and no result is lost.

    Redis is restarted for every upgrade. An idle worker connects again, or ends with a status that
    is not 0, so that another is started. What is in a worker's hands is nowhere else: its result
    is stored once Redis is there again, also by a worker that was told to stop meanwhile.
    """
    waiting.stop_while_away(lab)
    job = lab.add_job()
    busy = lab.start_worker()
    call = lab.world.next_call(job, busy)
    idle = lab.start_worker()
    outage = waiting.Outage(lab, busy, idle)
    call.finish()
    outage.last()
    outage.end()
    outage.expect_no_hurry()
    outage.expect_stored(job, busy)
    results.expect_kept(lab, job, busy)
    outage.expect_at_work_again()


@check("1b", points=3, needs=[ROOT], workers=2)
def test_finishes_the_job_on_sigterm(lab):
    """A worker told to stop by SIGTERM finishes the job in its hands, and takes no other.

    Every deploy sends SIGTERM. A job that is dropped is in no list any more. And what starts a
    deploy waits ten seconds for the worker to stop, as a rule, and then kills it.
    """
    jobs = {job.id: job for job in [lab.add_job() for _ in range(3)]}
    worker = lab.start_worker()
    call = lab.world.next_call()
    first = jobs[call.task_id]
    worker.wire.settle(lab.budgets.work, blocked_ok=True)
    others = {id: job for id, job in jobs.items() if lab.state(job) == "pending"}
    worker.terminate()
    worker.expect_alive()
    # While its successor starts, a worker that gives up its job has time to do so.
    successor = lab.start_worker(told="as a deploy does")
    if others:
        lab.world.wait_call(None, successor, lab.budgets.work)
    call.finish()
    # One with several jobs in its hands finishes them all.
    while (after := lab.world.wait_call(None, worker, lab.budgets.shutdown)) is not None:
        if after.task_id in others:
            raise _claimed_after_stop(lab, worker, first, others[after.task_id])
        after.finish()
    worker.expect_exit(code=0, task=first)
    lab.world.answer_all()
    for job in jobs.values():
        if lab.wait_for_result(job) is not None or lab.world.calls_of(job):
            lab.expect_result(job)
        elif job.id in others:
            raise _claimed_after_stop(lab, worker, first, job)
        else:
            raise lab.finding(
                "task-dropped-on-stop",
                f"{worker.name} finishes what it has taken from the queue, or gives it back.",
                f"It had taken {job} before SIGTERM, and nobody has worked on it.",
                lab.evidence(first, job),
                worker.statement_evidence(),
                worker.log_evidence(),
            )


def _claimed_after_stop(lab, worker, first, job):
    called = any(call.task_id == job.id for call in worker.calls)
    return lab.finding(
        "claimed-after-stop",
        f"{worker.name} finishes {first} and takes nothing more.",
        f"After SIGTERM it also took {job}."
        if called
        else f"{job}, which was in the queue at SIGTERM, is gone, and nobody has worked on it.",
        lab.evidence(first, job),
        worker.statement_evidence(),
        worker.log_evidence(),
    )


@check("1b", points=2, needs=[ROOT])
def test_finishes_the_job_on_sigint(lab):
    """Ctrl-C (SIGINT) stops the worker in the same way.

    Whoever tries a worker out by hand ends it with Ctrl-C, and wants no job left half done.
    """
    job = lab.add_job()
    worker = lab.start_worker()
    call = lab.world.next_call(job)
    worker.interrupt()
    worker.expect_alive()
    call.finish()
    worker.expect_exit(code=0, task=job)
    waiting.interrupt_with_an_answer_on_its_way(lab)


@check("1b", points=2, needs=[ROOT])
def test_stops_soon_when_idle(lab):
    """An idle worker stops soon after SIGTERM.

    A wait of half a minute that no signal ends makes every deploy wait for it, or kill it.
    """
    job = lab.add_job()
    worker = lab.start_worker()
    call = lab.world.next_call(job)
    since = len(lab.history)
    call.finish()
    lab.expect_result(job)
    # It has asked for the next one: its start, and its work, are behind it.
    worker.wait(lambda _: worker.polls(since) > 0, lab.budgets.work)
    worker.fail_if_ended(f"{worker.name} lives on while it has nothing to do.")
    worker.terminate()
    worker.expect_exit(code=0)


@check("1b", points=7, needs=[ROOT], explores=True)
def test_stops_cleanly_at_every_step(lab):
    """Told to stop at any moment, the worker finishes the job it has taken and takes no more.

    An answer of BRPOP that is already on its way is a job, too: nobody else has it any more.
    """
    explore(lab, "shutdown", SETTING)


@check("1b", points=7, needs=[ROOT], explores=True)
def test_survives_a_disconnect_at_every_step(lab):
    """Cut off at any moment, the worker connects again, and the result of its work is stored.

    Only a job that was lost on the wire, with the answer of BRPOP, cannot be helped here.
    """
    explore(lab, "disconnect", SETTING)
