"""What a check of the Redis queue holds in its hands: jobs, results, and the workers on them.

The contract: jobs in the list `work_queue`, pushed left and popped right; the result of each at
`result:<subtask_id>`, kept for 24 hours; the task itself a hash at `task:<task_id>`.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis

from graders.harness import history as h
from graders.harness.check import CouldNotGrade
from graders.harness.program import QueueWorker, how_it_ended
from graders.harness.results import Evidence
from graders.harness.room import FINAL, Room
from graders.harness.servers.base import REDIS_DATABASES, Server, ServerError
from graders.harness.steps import Step
from graders.harness.untrusted import from_json
from graders.harness.wire_redis import RedisWire

QUEUE = "work_queue"
MALFORMED = "work_queue:malformed"
DESCRIPTIONS = (
    "resize the photos", "send the invoices", "check the backups", "index the archive",
    "render the map", "count the votes", "translate the letter", "sort the mail",
    "test the alarm", "water the plants", "print the labels", "write the weekly report",
)  # fmt: skip
JOB_NEWS = (h.STEP_ANSWERED, h.STEP_DELIVERED, h.CALL_ARRIVED, h.EXIT)
BOUND = 30.0  # seconds for anything that Redis is asked by the grader


def asks_for_jobs(step: Step) -> bool:
    """Whether a step takes a job from the queue, or waits for one there."""
    return (
        step.server == "redis" and step.kind in ("command", "reply")
        and QUEUE in step.words and "PUSH" not in step.words.upper().split()[0]
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job that a check has added. `label` is what findings call it: J1, J2 …"""

    id: str  # its subtask_id
    label: str
    task_id: str
    description: str
    priority: int
    raw: bytes  # as it was pushed

    def __str__(self) -> str:
        return self.label


class Keyspaces:
    """The databases of one Redis server, handed out one at a time. For many threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._changed = threading.Condition()
        self._silent = False  # whether it has left a question unanswered
        try:
            count = self._count()
        except redis.RedisError as error:
            raise ServerError(f"Redis cannot be used: {error}") from None
        self._free = list(range(count))

    def _count(self) -> int:
        with self.client(0) as client:
            try:
                told = client.config_get("databases")
            except redis.ResponseError:  # CONFIG may be forbidden on a server of the user's
                return 16
            return min(int(told.get("databases", 16)), REDIS_DATABASES)

    def client(self, number: int) -> redis.Redis:
        """The grader's own client of one database."""
        return redis.Redis.from_url(
            self.server.url(str(number)), socket_timeout=BOUND, socket_connect_timeout=BOUND
        )

    def take(self) -> int:
        """The number of a database that nobody uses, emptied. Raises ServerError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free or self._silent, 10 * BOUND):
                raise ServerError("No database of Redis became free in time.")
            if self._silent:
                raise ServerError("Redis does not answer any more.")
            number = self._free.pop(0)
        self._flush(number)
        return number

    def _flush(self, number: int) -> None:
        """Empty a database. Raises ServerError; whoever asks later is not kept waiting as long."""
        try:
            with self.client(number) as client:
                client.flushdb()
        except redis.RedisError as error:
            with self._changed:
                self._silent = True
                self._changed.notify_all()
            raise ServerError(f"Redis does not answer: {error}") from None

    def give_back(self, number: int) -> None:
        """It is needed no more."""
        if self._silent:
            return
        self._flush(number)
        with self._changed:
            self._free.append(number)
            self._changed.notify()


class JobsLab(Room):
    """One check's own Redis database, world, processes and history."""

    store = "Redis"

    def open(self) -> None:
        keyspaces = self.session.keyspaces
        self.number = keyspaces.take()
        self._closing.append(lambda: keyspaces.give_back(self.number))
        self.redis = keyspaces.client(self.number)
        self._closing.append(self.redis.close)
        self._batch = uuid.UUID(int=self._random.getrandbits(128), version=4)

    def proxy(self, name: str) -> tuple[RedisWire, dict[str, str]]:
        server = self.session.services.redis
        url = urlsplit(server.admin_url)
        wire = RedisWire(
            self.session.loop, self.history, name, (server.host, server.port), self.number,
            password=unquote(url.password) if url.password else None,
            user=unquote(url.username) if url.username else None,
        )  # fmt: skip
        port = wire.start()
        return wire, {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}

    # Jobs

    def add_job(
        self, description: str | None = None, *, priority: int = 1, key: str = QUEUE
    ) -> Job:
        """Push a job, as the orchestrator does."""
        number = next(self._labels)
        task_id = str(self._batch)
        job_id = f"{task_id}-{number - 1}"
        description = description or DESCRIPTIONS[(number - 1) % len(DESCRIPTIONS)]
        raw = json.dumps({"task_id": task_id, "subtask_id": job_id, "description": description,
                          "priority": priority}).encode()  # fmt: skip
        job = Job(job_id, f"J{number}", task_id, description, priority, raw)
        self.know(job)
        self.ask(lambda r: r.lpush(key, raw))
        self.tell(f"Pushed the job {job.label}: “{description}”.")
        return job

    def know(self, job: Job) -> None:
        """Know a job by its label from now on, also one that somebody else has pushed."""
        self._known[job.id] = job
        self.history.add(h.TASK_ADDED, "grader", f"pushes {job.label} “{job.description}”",
                         task=job.id, label=job.label)

    def known(self, job_id: str) -> Job:
        """The job with this id, which was added or adopted here."""
        return self._known[job_id]

    def adopt_job(self, job_id: str, label: str) -> None:
        """Know a job that another lab has made, by the name it had there."""
        self.adopt(job_id, label)
        self._known[job_id] = Job(job_id, label, job_id.rpartition("-")[0], "", 0, b"")

    def push(self, raw: bytes, what: str) -> None:
        """Push something on the queue as it is; `what` says what it is."""
        self.ask(lambda r: r.lpush(QUEUE, raw))
        self.tell(f"Pushed {what}.")

    def queued(self, key: str = QUEUE) -> list[bytes]:
        """What is in a list now, in the order in which it will be popped (from the right).

        Nothing, if the key holds something else.
        """
        try:
            return self.ask(lambda r: r.lrange(key, 0, -1))[::-1]
        except redis.ResponseError:
            return []

    def raw_result(self, job: Job) -> bytes | None:
        """What is stored as the job's result; None if there is nothing."""
        key = f"result:{job.id}"
        try:
            return self.ask(lambda r: r.get(key))
        except redis.ResponseError:  # it is there, and no string
            return f"({self.ask(lambda r: r.type(key)).decode()}, not a string)".encode()

    def result(self, job: Job) -> dict[str, Any] | None:
        """The job's result; None if there is none, or none that is a JSON object."""
        told = from_json(self.raw_result(job) or b"")
        return told if isinstance(told, dict) else None

    def state(self, job: Job) -> str | None:
        """Its result's status, "pending" while it is in the queue; None: there is no trace."""
        if (result := self.result(job)) is not None:
            return str(result.get("status"))
        return "pending" if self._is_in(job, QUEUE) else None

    def _is_in(self, job: Job, key: str) -> bool:
        return any(subtask_id(raw) == job.id for raw in self.queued(key))

    def final_status(self, work: Job) -> str | None:
        result = self.result(work)
        status = result.get("status") if result else None
        return status if status in FINAL else None

    def ended_at(self, task_id: str) -> int | None:
        key = f"result:{task_id}"
        return next(
            (e.n for e in self.history.events(h.STEP_ANSWERED)
             if any(key in s.params for s in e.data["step"].statements)), None,
        )  # fmt: skip

    def evidence(self, *works: Job) -> Evidence:
        lines = []
        for job in works:
            raw = self.raw_result(job)
            if raw is not None:
                told = " ".join(raw.decode("utf-8", "backslashreplace").split())
                lines.append(f"{job.label}  result: {told}".replace(job.id, job.label))
            elif self._is_in(job, QUEUE):
                lines.append(f"{job.label}  is in {QUEUE}, and has no result")
            else:
                lines.append(f"{job.label}  is not in {QUEUE}, and has no result")
        title = "The jobs as they are now" if len(works) > 1 else "The job as it is now"
        return Evidence(title, tuple(lines))

    def expect_result(self, job: Job, status: str = "completed") -> dict[str, Any]:
        """The job gets a result with this status, within the work budget; returns it."""
        found = self.wait_for_result(job)
        expected = f"{job.label} gets a result with the status “{status}”."
        if found is not None and found.get("status") == status:
            return found
        evidence = (self.evidence(job), *(w.statement_evidence() for w in self.workers),
                    *(w.log_evidence() for w in self.workers))  # fmt: skip
        if found is None:
            for worker in self.workers:
                worker.fail_if_ended(expected)
            if (again := self.caller_again(job)) is not None:
                raise self.finding(
                    "task-executed-twice", f"{job.label} is executed once, and gets a result.",
                    f"{again} has called the outside world for it twice.", *evidence,
                )  # fmt: skip
            raise self.finding(
                "result-missing", expected,
                f"{self.budgets.work:.0f} s later there was no JSON object at "
                f"result:{job.label}.", *evidence,
            )  # fmt: skip
        code = {"failed": "task-wrongly-failed", "completed": "task-wrongly-completed"}
        raise self.finding(
            code.get(str(found.get("status")), "result-wrong"), expected,
            f"It got the status “{found.get('status')}”.", *evidence,
        )  # fmt: skip

    def wait_for_result(self, job: Job) -> dict[str, Any] | None:
        """Wait, within the work budget, until the job has a result; returns it, or None."""
        return self.look_until_found(lambda: self.result(job), JOB_NEWS)

    # Workers

    def start_worker(
        self,
        *,
        ready: bool = True,
        hold: Callable[[Step], bool] | None = None,
        hold_before: Callable[[Step], bool] | None = None,
        env: dict[str, str | None] | None = None,
        told: str = "",
    ) -> JobsWorker:
        """Start the student's worker behind a proxy of its own; wait until it asks for a job.

        `hold` says which of its steps are held once they are answered (see Program.held_step),
        `hold_before` which are held before Redis hears them. `env` changes its environment; None
        removes a variable. `told` is added to the step that tells of it.
        """
        name = f"worker-{len(self.workers) + 1}"
        worker = JobsWorker(self, name)
        self.workers.append(worker)
        self.programs.append(worker)
        variables = {"WORKER_ID": name, "WORK_URL": self.world.url(name), **(env or {})}
        worker.run(variables, hold=hold, hold_before=hold_before)
        self.tell_start(worker, told, ready, "it connected and asked for a job")
        return worker

    # The grader's own connection

    def ask(self, question: Callable[[redis.Redis], Any]) -> Any:
        """What Redis answers to the grader itself. Raises CouldNotGrade when it does not."""
        try:
            return question(self.redis)
        except redis.ResponseError:
            raise
        except (redis.RedisError, OSError) as error:
            raise CouldNotGrade(f"The grader's own connection to Redis failed: {error}") from error


class JobsWorker(QueueWorker):
    """A worker on the job queue that a check has started."""

    store = "Redis"
    lab: JobsLab
    place = "the Redis that REDIS_HOST and REDIS_PORT name"
    asks = f"asks {QUEUE} for a job"
    going_on = "asking for jobs"
    asked = "asked"
    a_poll = 2.0  # it may wait at Redis for its second

    def poll_times(self, since: int = 0) -> list[float]:
        """When each of its questions for a job reached its proxy, by the history's clock."""
        return [
            step.arrived_at for step in self.steps(h.STEP_ARRIVED, since)
            if step.kind == "command" and asks_for_jobs(step)
        ]

    def has_asked(self, told: str) -> bool:
        return self.polls() > 0  # what blocks may have no answer for long

    def expect_not_dropped(self, task: Job) -> None:
        lab = self.lab
        result = lab.result(task)
        if result is None or result.get("status") != "completed":
            raise lab.finding(
                "task-dropped-on-stop",
                f"{self.name} finishes {task}, which it has in hand, stores its result, then ends.",
                f"It {how_it_ended(self.process.exit)}, and {task} "
                + ("has no result." if result is None else f"is “{result.get('status')}”."),
                lab.evidence(task),
                self.log_evidence(),
            )


def subtask_id(raw: bytes) -> Any:
    """Whose an entry of the queue is; None where it does not say."""
    told = from_json(raw)
    return told.get("subtask_id") if isinstance(told, dict) else None
