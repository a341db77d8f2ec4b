"""What every check holds in its hands, whatever its store: processes, the outside world, history.

Whatever a check does through these is told as a numbered step, whatever it expects and does not
find becomes a Finding, with the evidence. `lab.py` has what is added for the tasks table, `jobs.py`
for the job queue on Redis.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from graders.harness import history as h
from graders.harness import places
from graders.harness.api import Api
from graders.harness.check import Finding
from graders.harness.program import Program
from graders.harness.results import Coverage, Evidence
from graders.harness.steps import Step
from graders.harness.submission import Submission
from graders.harness.wire import Wire
from graders.harness.world import Call, World

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

HOUR = 3600.0
TURN = 2.0  # seconds after which a store is looked at again although nothing was heard
FINAL = ("completed", "failed")


T = TypeVar("T")


class Work(Protocol):
    """A task or a job. `label` is what findings call it: T1, J2 …"""

    @property
    def id(self) -> str: ...

    @property
    def label(self) -> str: ...


class Room:
    """One check's own store, world, processes and history. Each kind of store is a subclass."""

    store = "PostgreSQL"  # as messages call it

    def __init__(self, session: GradingSession, check_name: str) -> None:
        self.session = session
        self.check_name = check_name
        self.budgets = session.budgets
        self.history = h.History()
        self.steps: list[str] = []
        self.coverage: Coverage | None = None  # of an exploration
        self.uses_again = False  # whether its store is to serve another check after it
        self.shown: tuple[h.Event, ...] | None = None  # of the moment that broke in one
        self.workers: list[Any] = []
        self.programs: list[Program] = []  # all, the workers among them
        self._random = random.Random(f"{session.options.seed} {check_name}")
        self._labels = itertools.count(1)
        self._known: dict[str, Any] = {}  # what was added, by its id
        self._closing: list[Callable[[], Any]] = []
        try:
            self.open()
            self._world = World(session.loop, self.history)
            self._world.start()
            self._closing.append(self._world.stop)
            self.world = OutsideWorld(self, self._world)
        except BaseException:
            self.close()
            raise

    # What a store has to say

    def open(self) -> None:
        """Set up the store of this check."""
        raise NotImplementedError

    def proxy(self, name: str) -> tuple[Wire, dict[str, str]]:
        """A started proxy to the store for a process, and the variables that name it to it."""
        raise NotImplementedError

    def end_sessions(self, backends: Iterable[int]) -> None:
        """End what the store still does for clients that are dead; wait until that is done."""

    def is_blocked(self, backend: int | None) -> bool:
        """Whether this session of the store's waits for anybody's lock."""
        return False

    def final_status(self, work: Any) -> str | None:
        """Completed or failed, if a task has come to that already; else None."""
        raise NotImplementedError

    def ended_at(self, task_id: str) -> int | None:
        """The number of the event at which it came to its final status; None if it is not told."""
        return None

    def evidence(self, *works: Any) -> Evidence:
        """What is stored of these tasks now."""
        raise NotImplementedError

    def sync(self) -> None:
        """Return once every change committed so far is in the history."""

    def before_close(self) -> None:
        """All its processes have ended; the store is still there."""

    # Telling what happened

    @property
    def outside(self) -> World:
        """The world itself, for what needs more than a check does."""
        return self._world

    def tell(self, text: str) -> None:
        """Add a numbered step: a sentence in the past tense about what the check has done."""
        self.steps.append(text)

    def remark(self, text: str) -> None:
        """Say something below the results, whatever the verdict."""
        self.session.notes.append(text)

    def events_to_show(self) -> list[h.Event]:
        """The events of which the timeline of a failure is made."""
        return self.history.events() if self.shown is None else list(self.shown)

    def adopt(self, task_id: str, label: str) -> None:
        """Know a task that another lab has made, by the name it had there."""
        self.history.add(h.TASK_ADDED, "grader", f"gives {label}", task=task_id, label=label)

    def label(self, task_id: str | None) -> str:
        """What a task is called in findings."""
        known = self._known.get(str(task_id))
        return known.label if known else f"task {task_id}"

    def caller_again(self, work: Any) -> str | None:
        """The name of a worker that has executed the task more than once; None if none has."""
        callers = [call.process for call in self.world.calls_of(work)]
        return next((who for who in callers if callers.count(who) > 1), None)

    def finding(
        self,
        code: str,
        expected: str,
        seen: str,
        *evidence: Evidence | None,
        at: h.Event | None = None,
    ) -> Finding:
        """A finding, told in the history too: the timeline points at `at`, or at this moment."""
        self.history.add(h.NOTE, "grader", f"this broke: {code}", code=code, broke=True, event=at)
        return Finding(code, expected, seen, [e for e in evidence if e is not None and e.lines])

    # Processes

    def start_api(
        self,
        *,
        ready: bool = True,
        hold: Callable[[Step], bool] | None = None,
        env: dict[str, str | None] | None = None,
        told: str = "",
        submission: Submission | None = None,
    ) -> Api:
        """Start the student's API behind a proxy of its own; wait until /health answers.

        `env` changes its environment; None removes a variable. `told` is added to the step. Of
        another `submission` than the one that is graded, where that is given.
        """
        apis = [each for each in self.programs if isinstance(each, Api)]
        name = f"api-{len(apis) + 1}" if apis else "api"
        api = Api(self, name)
        api.submission = submission
        self.programs.append(api)
        api.start(env or {}, hold)
        self.tell_start(api, told, ready, "it answered GET /health")
        return api

    def tell_start(self, program: Program, told: str, ready: bool, then: str) -> None:
        """Add the step that it was started; with `ready`, wait until it is, and say `then` too."""
        told = f"; {told}" if told else ""
        number = len(self.steps)
        self.tell(f"Started {program.name}{told}.")
        if ready:
            program.expect_ready()
            self.steps[number] = f"Started {program.name}{told}; {then}."

    def look_until_found(self, look: Callable[[], T | None], news: Container[str]) -> T | None:
        """What `look` finds in the store, within the work budget; None if it does not.

        It is asked again after each event of the kinds `news`, and a last time when nobody lives
        who could change anything.
        """
        left = self.budgets.work
        while True:
            since, began = len(self.history), self.history.now()
            found = look()
            if found is not None or left <= 0 or self.session.stopping:
                return found
            if all(not worker.alive for worker in self.workers):
                self.sync()
                return look()
            turn = min(left, TURN)
            self.history.wait(lambda e: e.kind in news, turn, since)
            left -= min(self.history.now() - began, turn)  # as History.wait_until counts
            places.waited(self.budgets.work - left)

    def close(self) -> None:
        """End every process, connection and listener of this check."""
        for program in self.programs:
            program.close()
        self.before_close()
        for close in reversed(self._closing):
            try:
                close()
            except Exception as error:  # the next one is to be closed all the same
                self.history.add(h.NOTE, "grader", f"closing failed: {error}")
        self._closing.clear()
        self.history.close()


class OutsideWorld:
    """The world outside, as a check sees it: calls come in, and are held until it lets them go."""

    def __init__(self, lab: Room, world: World) -> None:
        self._lab = lab
        self._world = world

    def url(self, process: str) -> str:
        """The WORK_URL of one process."""
        return self._world.url(process)

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in the order in which they came."""
        return list(self._world.calls)

    def calls_of(self, task: Work) -> list[Call]:
        """The executions of one task."""
        return [call for call in self._world.calls if call.task_id == task.id]

    def arrival(self, call: Call) -> h.Event | None:
        """The event at which a call came in."""
        came = self._lab.history.events(h.CALL_ARRIVED)
        return next((event for event in came if event.data["call"] is call), None)

    def answer_all(self, policy: Any = "finish") -> None:
        """From now on answer every call at once: "finish", "fail", or a function of the call."""
        self._world.policy = policy
        self._world.release_all()
        if policy == "finish":
            self._lab.tell("From here on the outside world finishes every call at once.")

    def next_call(self, task: Any = None, worker: Program | None = None) -> HeldCall:
        """The next call (for this task, by this worker), which is held until it is answered."""
        call = self.wait_call(task, worker, self._lab.budgets.work)
        if call is not None:
            return call
        lab = self._lab
        what = f"the work of {task}" if task else "the work of a task"
        who = worker.name if worker else "the worker"
        expected = f"{who[:1].upper()}{who[1:]} does {what} (calls the outside world)."
        workers = [worker] if worker else lab.workers
        status = lab.final_status(task) if task else None
        if status is None:
            for each in workers:
                each.fail_if_ended(expected)
        raise lab.finding(
            "task-wrongly-completed" if status == "completed" else "task-never-executed",
            expected,
            f"No such call came, and {task} is marked “{status}” all the same." if status
            else f"No such call came in {lab.budgets.work:.0f} s.",
            self.refused_evidence(),
            lab.evidence(task) if task else None,
            *(w.statement_evidence() for w in workers),
            *(w.log_evidence() for w in workers),
        )  # fmt: skip

    def refused_evidence(self) -> Evidence:
        """Requests that were no call, and why."""
        notes = [e for e in self._lab.history.events(h.NOTE) if e.data.get("malformed")]
        return Evidence("Requests that were no call", tuple(f"{e.who} {e.text}" for e in notes[:5]))

    def wait_call(
        self, task: Any, worker: Program | None, timeout: float
    ) -> HeldCall | None:
        """As next_call, but None when none came, or when none can come any more.

        That is so when everybody who could call has ended, or has got the task's row to its final
        status and polled twice since.
        """
        callers = [worker] if worker else self._lab.workers
        task_id = task.id if task else None
        process = worker.name if worker else None

        def came(_: Iterable[h.Event]) -> Any:
            call = self._world.next_call(task_id, process, timeout=0)
            return call or (callers and not any(could_call(each) for each in callers))

        def could_call(each: Any) -> bool:
            if not each.alive or task is None:
                return each.alive
            ended = self._lab.ended_at(task.id)
            return ended is None or each.polls(since=ended) < 2

        found = self._lab.history.wait_until(came, timeout)
        if not isinstance(found, Call):
            return None
        self._lab.tell(
            f"{found.process} called the outside world for {self._lab.label(found.task_id)};"
            " the call was held."
        )
        return HeldCall(self._lab, found)


class HeldCall:
    """A worker's call of the outside world, held until the check answers it."""

    def __init__(self, lab: Room, call: Call) -> None:
        self._lab = lab
        self._call = call
        self.task_id = call.task_id
        self.process = call.process
        self.label = lab.label(call.task_id)

    def finish(self) -> None:
        """Answer it: the work is done."""
        self._lab.tell(f"Let the call of {self.label} finish.")
        self._call.finish()

    def fail(self) -> None:
        """Answer it with status 500: the work has failed."""
        self._lab.tell(f"Answered the call of {self.label} with status 500: its work has failed.")
        self._call.fail()
