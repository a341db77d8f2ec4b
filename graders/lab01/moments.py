"""The job queue as the explorations see it: how jobs are put in place, and what becomes of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graders.harness.explore import crash
from graders.harness.explore.acts import Acted, Post
from graders.harness.explore.checks import explored_by, report
from graders.harness.explore.record import Moment
from graders.harness.explore.stage import (
    BLOCKED,
    FAILING_WORK,
    PENDING_TASK,
    THREE_TASKS,
    Item,
    Scenario,
    Setting,
    Stage,
    Timing,
)
from graders.harness.jobs import QUEUE, JobsLab, asks_for_jobs
from graders.harness.results import Evidence
from graders.harness.steps import Step
from graders.harness.wire import Wire
from graders.harness.wire_redis import BLOCKING

if TYPE_CHECKING:
    from graders.harness.room import Room
    from graders.harness.session import GradingSession

ENOUGH = 3  # turns for which a client waits before Redis ends its wait
_numbers = itertools.count(1)


class JobsStage(Stage):
    """A stage whose store is a Redis database of its own."""

    def __init__(self, session: GradingSession, name: str) -> None:
        id = f"{name}-{next(_numbers)}"
        session.stages.acquire()
        try:
            self.lab = JobsLab(session, id)
        except BaseException:
            session.stages.release()
            raise
        self._seen_blocked: Counter[str] = Counter()
        super().__init__(session, id, self.lab.history, self.lab.outside)

    def proxies(self, name: str) -> tuple[list[Wire], dict[str, str]]:
        wire, named = self.lab.proxy(name)
        return [wire], named

    def variables(self, timing: Timing) -> dict[str, str]:
        return {}  # a worker of this lab is told nothing about time

    def put(self, scenario: Scenario) -> list[Item]:
        return [self._add(scenario.fails and n == 0) for n in range(scenario.tasks)]

    def add_last(self) -> Item:
        return self._add()

    def _add(self, fails: bool = False) -> Item:
        job = self.lab.add_job()
        item = Item(job.id, job.label, fails)
        self.items.append(item)
        return item

    def state(self, item: Item) -> str | None:
        return self.lab.state(self._job(item))

    def _job(self, item: Item) -> Any:
        return self.lab.known(item.id)

    def evidence(self, items: Sequence[Item]) -> Evidence:
        return self.lab.evidence(*map(self._job, items))

    def is_poll(self, step: Step) -> bool:
        return asks_for_jobs(step)

    def blocks(self, step: Step) -> bool:
        return step.kind == "command" and any(s.sql in BLOCKING for s in step.statements)

    def takes(self, moment: Moment) -> bool:
        return QUEUE in moment.name and moment.kind in ("command", "reply")

    def hasten(self) -> None:
        # A blocked command of this database that has been seen three times is told by Redis itself
        # that its time is over.
        blocked = [
            client["id"] for client in self.lab.ask(lambda r: r.client_list())
            if client["db"] == str(self.lab.number) and "b" in client["flags"]
        ]  # fmt: skip
        self._seen_blocked.update(blocked)
        for client in blocked:
            if self._seen_blocked[client] >= ENOUGH:
                del self._seen_blocked[client]
                self.lab.ask(lambda r, c=client: r.client_unblock(c))

    def left(self) -> dict[str, Any]:
        """Each key with what DUMP says of it, and how long it has to live."""
        keys = self.lab.ask(lambda r: r.keys("*"))
        return {key: self.lab.ask(lambda r, k=key: (r.dump(k), max(r.pttl(k), 0))) for key in keys}

    def give(self, left: dict[str, Any], items: Sequence[Item]) -> None:
        for item in items:
            self.lab.adopt_job(item.id, item.label)
        self.items += items
        for key, (value, life) in left.items():
            if key == QUEUE.encode():
                self._append(value)
            else:
                self.lab.ask(lambda r, k=key, v=value, t=life: r.restore(k, t, v, replace=True))

    def _append(self, dumped: bytes) -> None:
        """Add the jobs of another queue to this one; RESTORE alone would replace it."""
        self.lab.ask(lambda r: r.restore("left", 0, dumped))
        for raw in self.lab.queued("left"):
            self.lab.ask(lambda r, v=raw: r.lpush(QUEUE, v))
        self.lab.ask(lambda r: r.delete("left"))

    def free(self) -> None:
        try:
            self.lab.close()
        finally:
            self.session.stages.release()


SETTING = Setting(
    "jobs", JobsStage,
    crash=(PENDING_TASK, BLOCKED),
    interleave=(PENDING_TASK,),
    shutdown=(THREE_TASKS, FAILING_WORK, BLOCKED),
    disconnect=(PENDING_TASK, BLOCKED),
    waits_for=None,
    at_most_once=True,
)  # fmt: skip


class PostTask(Post):
    """A client posts a task to the orchestrator."""

    who = "the orchestrator"
    data = MappingProxyType({"description": "build an api", "priority": 2})

    def wrongly_stored(self, room: JobsLab) -> tuple[str, str] | None:
        return None if self._stored(room) == (1, 4) else ("half-written", self._words(room))

    def judge(self, kind: str, room: JobsLab, acted: Acted) -> tuple[str, str] | None:
        if self._stored(room) in ((0, 0), (1, 4)):
            return None
        return "half-written", self._words(room)

    def _stored(self, room: JobsLab) -> tuple[int, int]:
        return len(room.ask(lambda r: r.keys("task:*"))), len(room.queued())

    def _words(self, room: JobsLab) -> str:
        hashes, jobs = self._stored(room)
        task = "there is no hash of the task" if not hashes else \
            "the hash of the task is there" if hashes == 1 else f"there are {hashes} hashes"
        return f"{task}, and {jobs} of its 4 jobs are in {QUEUE}"

    def evidence(self, room: Room, acted: Acted) -> list[Evidence]:
        keys = room.ask(lambda r: sorted(r.keys("*")))
        lines = [key.decode(errors="backslashreplace") for key in keys]
        queued = [raw.decode(errors="backslashreplace")[:200] for raw in room.queued()]
        return [Evidence("The keys in Redis", tuple(lines) or ("(none)",)),
                Evidence(f"The jobs in {QUEUE}, oldest first", tuple(queued) or ("(none)",))]


def show_losses(lab: JobsLab) -> None:
    """Kill the worker at each of its steps, and tell which of them lose a job; that is no finding.

    Whatever else breaks there is one.
    """
    explored = explored_by(lab, crash.explore, SETTING)
    lost = [p for p in explored.broken if p.outcome.code == "task-lost"]
    lab.remark(
        f"Killed at {len(lost)} of {len(explored.tried)} moments, your worker loses a job for good "
        "(at-most-once; no points): make explore LAB=01 CHECK=shows_which_moments_lose_a_job "
        "shows which. Lab 08 has the cure." if lost else
        f"Killed at any of {len(explored.tried)} moments, your worker loses no job."
    )  # fmt: skip
    others = replace(explored, points=[p for p in explored.points if p not in lost])
    report(lab, explored, crash.EXPECTED, judged=others)
