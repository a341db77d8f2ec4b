"""How a worker waits: with nothing to do, and while Redis is away.

A try is stamped when it reaches the proxy, and the worker can wait only after it has had its
answer. So two of them are never closer together than the worker's wait, however slow the grader is:
many in a short time are a worker that does not wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from graders.harness import history as h
from graders.harness.jobs import Job, JobsLab, JobsWorker, asks_for_jobs
from graders.harness.program import how_it_ended
from graders.harness.results import Evidence
from graders.harness.steps import Cut, Gate, Step

# A worker that waits 0.1 s between two tries makes 40 of them in 4 s, one that does not in 0.1 s.
BURST = 40  # tries …
SHORT = 0.75  # … within so many seconds

LOOKED_AT = 1.5  # seconds for which a worker is looked at, at least, whether it hurries
LONGEST = 7.0  # seconds for which one is looked at that is still in its first wait
REFUSED = 0.5  # seconds of an outage in which nothing listens
SEEN = 2  # tries of a worker that is to stop; the second one begins after it has failed once
TRIES = 10  # in an outage after that; redis-py gives up by itself after 11 in all


def burst(times: Sequence[float]) -> float | None:
    """The seconds in which BURST tries were made, if they were made in a SHORT time; else None."""
    for first, last in zip(times, times[BURST - 1 :], strict=False):
        if last - first < SHORT:
            return last - first
    return None


# Idle


def expect_patience(lab: JobsLab, worker: JobsWorker) -> None:
    """With nothing to do the worker waits, and each of its waits comes to its end."""
    since, began = len(lab.history), lab.history.now()

    def seen_enough(_: object) -> bool:
        if _hurry(worker, since) or _abandoned(worker, since):
            return True
        ended = sum(map(asks_for_jobs, worker.steps(since=since)))
        return ended >= 2 and lab.history.now() - began > LOOKED_AT

    worker.wait(seen_enough, LONGEST)
    worker.fail_if_ended(f"{worker.name} lives on while it has nothing to do.")
    lab.tell(f"Looked on while {worker.name} had nothing to do.")
    if (took := _hurry(worker, since)) is not None:
        raise lab.finding(
            "busy-polling",
            f"{worker.name}, with nothing to do, waits before it asks Redis again.",
            f"It sent {BURST} commands within {1000 * took:.0f} ms.",
            worker.statement_evidence(),
        )
    if step := _abandoned(worker, since):
        raise lab.finding(
            "wait-abandoned",
            f"{worker.name} waits until Redis answers its “{step.words}”, be it with nothing.",
            "It closed the connection before. A job that Redis hands out just then is lost, and "
            "the worker hears nothing of it.",
            _answers(worker),
            worker.log_evidence(),
        )


def _hurry(worker: JobsWorker, since: int) -> float | None:
    said = worker.steps(h.STEP_ARRIVED, since)
    return burst([step.arrived_at for step in said if step.kind in ("command", "check")])


def _abandoned(worker: JobsWorker, since: int) -> Step | None:
    """A question for jobs on whose answer the worker has hung up; None if there is none."""
    asked = {
        step.connection: step for step in worker.steps(h.STEP_ARRIVED)
        if step.kind == "command"
    }  # fmt: skip
    for event in worker.lab.history.events(h.DISCONNECTED, who=worker.name, since=since):
        step = asked.get(event.data["connection"])
        unanswered = step is not None and step.answered_at is None and asks_for_jobs(step)
        if event.data["by"] == "client" and unanswered:
            return step
    return None


def _answers(worker: JobsWorker) -> Evidence:
    """What it said last, on which connection, and how long it waited for the answer."""
    lines = []
    closed = {
        event.data["connection"]: event.at
        for event in worker.lab.history.events(h.DISCONNECTED, who=worker.name)
    }
    for step in worker.steps(h.STEP_ARRIVED)[-6:]:
        ended = step.answered_at or closed.get(step.connection)
        how = "no answer yet" if ended is None else (
            f"{'answered' if step.answered_at else 'closed by the worker'} after "
            f"{ended - step.arrived_at:.1f} s"
        )  # fmt: skip
        lines.append(f"connection {step.connection}: {step.words}   -> {how}")
    return Evidence(f"What {worker.name} said to Redis last", tuple(lines))


# Away


class BreaksOff(Gate):
    """Each connection breaks off as soon as something is said on it."""

    async def before(self, step: Step) -> None:
        """Nothing that is said gets to Redis (loop)."""
        raise Cut


class Outage(BreaksOff):
    """Redis is away for some workers: first nothing listens, then each connection breaks off.

    In the second part it is seen how often they try. What is asked in vain is counted, not timed.
    """

    def __init__(self, lab: JobsLab, *workers: JobsWorker) -> None:
        self._lab = lab
        self._workers = workers
        for worker in workers:
            worker.wire.refuse()
            worker.wire.cut()
        names = " and ".join(worker.name for worker in workers)
        lab.tell(f"Took Redis away from {names}: connections were cut, and new ones refused.")

    def last(self) -> None:
        """Wait until each worker has tried often, has tried too often, or has ended."""
        lab = self._lab
        lab.history.wait_until(lambda _: not any(w.alive for w in self._workers), REFUSED)
        self._since, self._began = len(lab.history), lab.history.now()
        for worker in self._workers:
            worker.wire.gate = self
            worker.wire.refuse(False)
        lab.history.wait_until(self._seen_enough, lab.budgets.work)

    def _seen_enough(self, _: object) -> bool:
        tries = {worker: self.tries(worker) for worker in self._workers}
        if any(burst(each) is not None for each in tries.values()):
            return True
        looked = self._lab.history.now() - self._began > LOOKED_AT
        return looked and all(
            len(each) >= TRIES or not worker.alive for worker, each in tries.items()
        )

    def end(self) -> None:
        """Redis is there again."""
        for worker in self._workers:
            worker.wire.gate = None
        tried = ", ".join(
            f"{worker.name} had tried to connect {len(self.tries(worker))} times"
            for worker in self._workers
        )
        self._lab.tell(f"Gave Redis back; by then {tried}.")

    def tries(self, worker: JobsWorker) -> list[float]:
        """When it opened a connection in the second part."""
        opened = self._lab.history.events(h.CONNECTED, who=worker.name, since=self._since)
        return [event.at for event in opened]

    # What is expected

    def expect_no_hurry(self) -> None:
        """Each worker paused between its tries."""
        for worker in self._workers:
            if (took := burst(self.tries(worker))) is not None:
                raise self._lab.finding(
                    "busy-retrying",
                    f"{worker.name} waits a little before it tries to reach Redis again.",
                    f"It tried {BURST} times within {1000 * took:.0f} ms.",
                    worker.log_evidence(),
                )

    def expect_stored(self, job: Job, worker: JobsWorker) -> None:
        """The result of a job whose work was done meanwhile is stored; it is not done again."""
        lab = self._lab
        expected = f"{worker.name} stores the result of {job} once Redis is there again."
        lab.wait_for_result(job)
        _expect_not_again(lab, job, worker)
        if lab.raw_result(job) is None:
            worker.fail_if_capped(expected)
            seen = "It lives on, and there is no result." if worker.alive else (
                f"It {how_it_ended(worker.process.exit)}, and there is no result.")  # fmt: skip
            raise lab.finding("result-missing", expected, seen, lab.evidence(job),
                              worker.statement_evidence(), worker.log_evidence(30))  # fmt: skip
        lab.expect_result(job)

    def expect_at_work_again(self) -> None:
        """Each worker takes a job again, or has made way for another one."""
        lab = self._lab
        jobs = [lab.add_job() for _ in self._workers]
        for worker in self._workers:
            # It is held, so that the next job is left to the next worker.
            if lab.world.wait_call(None, worker, lab.budgets.work) is None:
                self._expect_made_way(worker)
        if not all(worker.alive for worker in self._workers):
            lab.start_worker(told="as whatever watches over them would")
        lab.world.answer_all()
        for job in jobs:
            lab.expect_result(job)

    def _expect_made_way(self, worker: JobsWorker) -> None:
        """It has ended, and it shows that another one is needed."""
        worker.fail_if_capped(f"{worker.name} waits while Redis is away.")
        if worker.alive:
            raise self._lab.finding(
                "dead-connection",
                f"{worker.name} connects again, and takes a job.",
                f"It lives on, but {self._lab.budgets.work:.0f} s later it had taken none.",
                worker.statement_evidence(),
                worker.log_evidence(),
            )
        if worker.process.exit.code == 0:
            raise self._lab.finding(
                "worker-exited",
                f"{worker.name} connects again, or ends with a status that is not 0.",
                "It ended with exit status 0, so nobody would start another.",
                worker.log_evidence(),
            )


def stop_while_away(lab: JobsLab) -> None:
    """A worker with a result in its hands is told to stop while Redis is away.

    It has to store that once Redis is back, or to end with a status that is not 0. Raises a
    Finding.
    """
    job = lab.add_job()
    worker = lab.start_worker()
    call = lab.world.next_call(job, worker)
    worker.wire.refuse()
    worker.wire.cut()
    call.finish()
    lab.tell(f"Took Redis away from {worker.name}, and let the work on {job} be done.")
    lab.history.wait_until(lambda _: not worker.alive, REFUSED)
    if worker.alive:
        worker.terminate()
    since = len(lab.history)
    # From here on each connection breaks off once something is said, so that its tries are seen.
    worker.wire.gate = BreaksOff()
    worker.wire.refuse(False)
    worker.wait(
        lambda _: len(lab.history.events(h.CONNECTED, who=worker.name, since=since)) >= SEEN,
        lab.budgets.work,
    )  # fmt: skip
    worker.wire.gate = None
    tries = len(lab.history.events(h.CONNECTED, who=worker.name, since=since))
    lab.tell(f"Gave Redis back; by then {worker.name} had tried to connect {tries} times.")
    budget = lab.budgets.work + lab.budgets.shutdown
    lab.history.wait_until(
        lambda _: not worker.alive or len(lab.world.calls_of(job)) > 1, budget
    )
    _expect_not_again(lab, job, worker)
    if worker.alive:
        raise lab.finding(
            "still-running", f"{worker.name} stores the result of {job}, and stops.",
            f"{budget:.0f} s after Redis was there again it was still running.",
            lab.evidence(job), worker.log_evidence(),
        )  # fmt: skip
    if worker.process.exit.code == 0 and lab.raw_result(job) is None:
        raise lab.finding(
            "task-dropped-on-stop",
            f"{worker.name}, told to stop while Redis was away, stores the result of {job} once it "
            "is back.", "It ended with exit status 0, and there is no result.",
            lab.evidence(job), worker.statement_evidence(), worker.log_evidence(),
        )  # fmt: skip


def _expect_not_again(lab: JobsLab, job: Job, worker: JobsWorker) -> None:
    """The work of a job that was done has not been begun again. Raises a Finding."""
    if len(lab.world.calls_of(job)) > 1:
        raise lab.finding(
            "task-executed-twice", f"{job}, whose work was done, is not worked on again.",
            f"{worker.name} has called the outside world for it a second time.",
            worker.statement_evidence(), worker.log_evidence(),
        )  # fmt: skip


def interrupt_with_an_answer_on_its_way(lab: JobsLab) -> None:
    """SIGINT when Redis has popped a job, and an idle worker has not heard of it yet."""
    worker = lab.start_worker()
    job = lab.add_job()
    lab.world.next_call(job, worker).finish()  # its start is behind it
    lab.expect_result(job)
    hold = worker.wire.hold(lambda step: "subtask_id" in str(step.data.get("reply")), when="after")
    last = lab.add_job()
    if hold.wait_reached(lab.budgets.work) is None:
        lab.world.next_call(last, worker)  # it says what has become of it
    lab.tell(f"Held the answer that brings {last}.")
    worker.interrupt()
    hold.release()
    call = lab.world.wait_call(last, worker, lab.budgets.work)
    if call is None:
        worker.expect_exit(code=0, task=last)
    call.finish()
    worker.expect_exit(code=0, task=last)
