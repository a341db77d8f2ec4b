"""Made-up results and histories, which the tests of the reports are about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from graders.harness import history as h
from graders.harness.history import Event
from graders.harness.report import timeline
from graders.harness.results import (
    COULD_NOT_GRADE,
    FAILED,
    HELD,
    NOT_CHECKED,
    NOT_EXPLORED,
    PASSED,
    CheckResult,
    Coverage,
    Evidence,
    FindingReport,
    LabResult,
    MomentResult,
)

T1 = "6f1c2a54-0b7e-4d0c-9a63-0f0f5d7c1e01"
T2 = "b2d94c11-5a0e-4f3b-8c77-1e2d3c4b5a02"

SELECT = """
    SELECT id, title, description, type, priority
      FROM tasks WHERE status = 'pending' -- the oldest
     ORDER BY created_at LIMIT 1"""
CLAIM = """UPDATE tasks SET status = 'processing', assigned_worker = $1, updated_at = now()
    WHERE id = $2"""
CLAIM_SKIP = """UPDATE tasks SET status = 'processing', assigned_worker = $1, updated_at = now()
    WHERE id = (SELECT id FROM tasks WHERE status = 'pending' ORDER BY created_at
    LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, title, description, type, priority"""
DONE = "UPDATE tasks SET status = $1, updated_at = now() WHERE id = $2"


@dataclass(eq=False)
class FakeStep:
    """What the wire's Step shows of itself."""

    process: str
    connection: int
    kind: str
    words: str
    statements: tuple[Any, ...] = ()
    tags: tuple[str, ...] = ()
    error: str | None = None
    backend: int | None = None


@dataclass(eq=False)
class FakeCall:
    """What the world's Call shows of itself."""

    process: str
    task_id: str
    answer: Any = None


@dataclass
class Tale:
    """Writes a history with times of its own."""

    events: list[Event] = field(default_factory=list)
    now: float = 0.0

    def add(self, kind: str, who: str, text: str = "", after: float = 0.002, **data: Any) -> Event:
        self.now = round(self.now + after, 6)
        event = Event(len(self.events), self.now, kind, who, text, data)
        self.events.append(event)
        return event

    def task(self, task: str, label: str, title: str = "Send the report") -> Event:
        return self.add(h.TASK_ADDED, "grader", f"{label} added", id=task, label=label,
                        row={"title": title})

    def start(self, who: str, pid: int = 4711) -> Event:
        return self.add(h.STARTED, who, "started", pid=pid, command=["python", "-m", "worker"])

    def log(self, who: str, line: str) -> Event:
        return self.add(h.LOG, who, line, stream="stderr", line=line)

    def step(self, who: str, kind: str = "query", sql: str = "", params: tuple = (),
             connection: int = 1) -> FakeStep:
        statements = (SimpleNamespace(sql=sql, params=params),) if kind == "query" else ()
        return FakeStep(who, connection, kind, " ".join(sql.split()), statements)

    def arrive(self, step: FakeStep, after: float = 0.002) -> FakeStep:
        self.add(h.STEP_ARRIVED, step.process, step.words, after, step=step)
        return step

    def answer(self, step: FakeStep, *tags: str, error: str | None = None) -> FakeStep:
        step.tags, step.error = tags, error
        self.add(h.STEP_ANSWERED, step.process, step.words, step=step)
        return step

    def deliver(self, step: FakeStep) -> FakeStep:
        self.add(h.STEP_DELIVERED, step.process, step.words, 0.0001, step=step)
        return step

    def say(self, who: str, sql: str, *tags: str, params: tuple = (), connection: int = 1,
            error: str | None = None) -> FakeStep:
        step = self.arrive(self.step(who, "query", sql, params, connection))
        return self.deliver(self.answer(step, *tags, error=error))

    def connect(self, who: str, connection: int = 1) -> FakeStep:
        self.add(h.CONNECTED, who, "connected", 0.15, connection=connection)
        step = self.arrive(FakeStep(who, connection, "connect", "connect", backend=99))
        return self.deliver(self.answer(step))

    def row(self, task: str, old: str | None, new: str | None, worker: str | None) -> Event:
        return self.add(h.ROW_CHANGED, "postgres", f"{old} → {new}", task=task, old=old, new=new,
                        worker=worker, backend=99)

    def call(self, who: str, task: str) -> FakeCall:
        call = FakeCall(who, task)
        self.add(h.CALL_ARRIVED, "world", "call", call=call)
        return call

    def finish(self, call: FakeCall, answer: Any = 200) -> None:
        call.answer = answer
        self.add(h.CALL_ANSWERED, "world", "answered", call=call)


def executed_twice() -> tuple[list[Event], Event]:
    """Two workers that both read T1 as pending; and the event that breaks the expectation."""
    tale = Tale()
    tale.task(T1, "T1")
    for n in (1, 2):
        who = f"worker-{n}"
        tale.start(who, 4710 + n)
        tale.connect(who)
        tale.log(who, f"INFO worker started id={who} poll_interval=3600.0")
    first, second = tale.step("worker-1", sql=SELECT), tale.step("worker-2", sql=SELECT)
    tale.say("worker-1", "BEGIN", "BEGIN")
    tale.arrive(first)
    tale.say("worker-2", "BEGIN", "BEGIN")
    tale.arrive(second)
    tale.deliver(tale.answer(first, "SELECT 1"))
    tale.deliver(tale.answer(second, "SELECT 1"))
    tale.say("worker-1", CLAIM, "UPDATE 1", params=("worker-1", T1))
    tale.say("worker-1", "COMMIT", "COMMIT")
    tale.row(T1, "pending", "processing", "worker-1")
    tale.log("worker-1", f'INFO claimed task {T1} "Send the report"')
    one = tale.call("worker-1", T1)
    tale.say("worker-2", CLAIM, "UPDATE 1", params=("worker-2", T1))
    tale.say("worker-2", "COMMIT", "COMMIT")
    tale.row(T1, "processing", "processing", "worker-2")
    tale.log("worker-2", f'INFO claimed task {T1} "Send the report"')
    tale.call("worker-2", T1)
    broke = tale.events[-1]
    tale.finish(one)
    tale.say("worker-1", "BEGIN", "BEGIN")
    tale.say("worker-1", DONE, "UPDATE 1", params=("completed", T1))
    tale.say("worker-1", "COMMIT", "COMMIT")
    tale.row(T1, "processing", "completed", "worker-1")
    return tale.events, broke


def dropped_on_sigterm() -> tuple[list[Event], Event]:
    """One worker that SIGTERM ends in the middle of its task."""
    tale = Tale()
    tale.task(T1, "T1")
    tale.start("worker-1")
    tale.connect("worker-1")
    tale.log("worker-1", "INFO worker started poll_interval=2.0")
    tale.say("worker-1", "BEGIN", "BEGIN")
    tale.say("worker-1", CLAIM_SKIP, "UPDATE 1", params=("worker-1",))
    tale.say("worker-1", "COMMIT", "COMMIT")
    tale.row(T1, "pending", "processing", "worker-1")
    tale.log("worker-1", f'INFO claimed task {T1} "Send the report"')
    call = tale.call("worker-1", T1)
    tale.add(h.SIGNAL, "worker-1", "SIGTERM", signal="SIGTERM")
    tale.add(h.CALL_LOST, "world", "lost", call=call)
    tale.add(h.DISCONNECTED, "worker-1", "gone", connection=1, by="client")
    broke = tale.add(h.EXIT, "worker-1", "ended", code=None, signal="SIGTERM")
    return tale.events, broke


def polling(times: int = 40) -> list[Event]:
    """A worker that asks an empty queue again and again."""
    tale = Tale()
    tale.start("worker-1")
    tale.connect("worker-1")
    for n in range(times):
        tale.say("worker-1", "BEGIN", "BEGIN")
        tale.say("worker-1", CLAIM_SKIP, "UPDATE 0", params=("worker-1",))
        tale.say("worker-1", "COMMIT", "COMMIT")
        tale.log("worker-1", f"2026-01-01 10:00:{n:02} no task")
    tale.add(h.SIGNAL, "worker-1", "SIGTERM", signal="SIGTERM")
    close = FakeStep("worker-1", 1, "close", "close")
    tale.arrive(close)
    tale.add(h.DISCONNECTED, "worker-1", "closed", connection=1, by="client")
    tale.add(h.EXIT, "worker-1", "ended", code=0, signal=None)
    return tale.events


CHECKS = (
    ("3a", "completes_a_pending_task", 6, (), "A pending task is executed and completed."),
    ("3a", "starts_and_says_so", 2, ("completes_a_pending_task",),
     "The worker connects at start and says so."),
    ("3a", "refuses_to_start_without_a_database", 4, ("completes_a_pending_task",),
     "Without a usable database the worker refuses to start, and says why."),
    ("3a", "finishes_the_task_on_sigterm", 6, ("completes_a_pending_task",),
     "A worker told to stop finishes the task in its hands first."),
    ("3a", "claims_nothing_after_sigterm", 4, ("finishes_the_task_on_sigterm",),
     "A worker told to stop takes no other task."),
    ("3b", "never_executes_a_task_twice", 8, ("completes_a_pending_task",),
     "Two workers never execute the same task."),
    ("3b", "never_waits_for_a_lock", 4, ("never_executes_a_task_twice",),
     "With another task to take, nobody waits for another worker's lock."),
    ("3b", "survives_a_database_restart", 4, ("completes_a_pending_task",),
     "The worker survives a restart of the database."),
)


def lab_result(changes: dict[str, dict[str, Any]] | None = None, **more: Any) -> LabResult:
    """A result in which all checks pass, except for the given changes by name."""
    checks = []
    for exercise, name, points, needs, title in CHECKS:
        check = CheckResult(name, exercise, title, "", points, PASSED, needs, seconds=0.4)
        checks.append(replace(check, **(changes or {}).get(name, {})))
    values: dict[str, Any] = {
        "lab": "lab03",
        "title": "The PostgreSQL worker",
        "submission": "starter/lab03",
        "kit_version": "0.1.0",
        "services": {"postgres": "embedded (PostgreSQL 18.6)"},
        "seed": 7,
        "started": "2026-01-01T10:00:00Z",
        "seconds": 6.25,
        "exercises": {"3a": "Polling and graceful shutdown", "3b": "The queue"},
        "checks": tuple(checks),
    }
    return LabResult(**(values | more))


def passing() -> LabResult:
    """Full marks."""
    return lab_result()


def failing() -> LabResult:
    """Two failed checks with all there is to show, and two that wait for them."""
    return lab_result(
        {
            "finishes_the_task_on_sigterm": {
                "verdict": FAILED,
                "why": "Every deploy sends SIGTERM. A worker that drops its task makes each\n"
                       "deploy lose work.",
                "finding": FindingReport(
                    "task-dropped-on-stop",
                    "worker-1 finishes T1, records it and exits with status 0 within 10 s.",
                    "SIGTERM ended worker-1 while its call for T1 was open. T1 is still in "
                    "processing.",
                    (
                        Evidence("The row of T1 at the end", (
                            f"id               {T1}",
                            "title            Send the report",
                            "status           processing",
                            "assigned_worker  worker-1",
                        )),
                        Evidence("The last lines of worker-1", (
                            "INFO worker started poll_interval=2.0",
                            f'INFO claimed task {T1} "Send the report"',
                        )),
                    ),
                ),
                "steps": (
                    "T1 was added to the table of tasks.",
                    "worker-1 was started.",
                    "worker-1 called the world for T1. The world held the call.",
                    "SIGTERM was sent to worker-1.",
                ),
                "timeline": tuple(timeline.rows(*dropped_on_sigterm())),
            },
            "claims_nothing_after_sigterm": {
                "verdict": NOT_CHECKED,
                "reason": "Mend “finishes_the_task_on_sigterm” first.",
            },
            "never_executes_a_task_twice": {
                "verdict": FAILED,
                "why": "Executed twice means charged twice, or mailed twice.\n\nReading a row and "
                       "changing it\nare two steps; others can come between.",
                "finding": FindingReport(
                    "task-executed-twice",
                    "T1 is executed by one of the two workers.",
                    "worker-2 executed T1 while worker-1 had it in hand.",
                    (Evidence("The executions of T1", (
                        "0.386  worker-1  in hand until 0.407",
                        "0.404  worker-2  in hand until the end",
                    )),),
                ),
                "steps": (
                    "T1 was added to the table of tasks.",
                    "worker-1 was started and held before the answer to its first SELECT.",
                    "worker-2 was started and ran until it called the world.",
                    "worker-1 was let go.",
                ),
                "timeline": tuple(timeline.rows(*executed_twice())),
            },
            "never_waits_for_a_lock": {
                "verdict": NOT_CHECKED,
                "reason": "Mend “never_executes_a_task_twice” first.",
            },
        },
        notes=("Using embedded servers: no Docker engine answers.",),
        unanswered=("3a.1  Two workers poll at the same moment. What can happen?",
                    "3b.4  At what scale would you leave PostgreSQL, and for what?"),
    )


def starter() -> LabResult:
    """The first check failed, all others wait for it."""
    waits = {
        name: {"verdict": NOT_CHECKED,
               "reason": "Mend “completes_a_pending_task” first."}
        for _, name, *_ in CHECKS[1:]
    }
    tale = Tale()
    tale.task(T1, "T1")
    tale.start("worker-1")
    tale.connect("worker-1")
    tale.log("worker-1", "connected; TODO 1 (worker/queue.py): claim the oldest pending task")
    tale.arrive(FakeStep("worker-1", 1, "close", "close"))
    tale.add(h.DISCONNECTED, "worker-1", "closed", connection=1, by="client")
    broke = tale.add(h.EXIT, "worker-1", "ended", code=0, signal=None)
    waits["completes_a_pending_task"] = {
        "verdict": FAILED,
        "why": "This is what a worker is for. All other checks stand on it.",
        "finding": FindingReport(
            "worker-exited", "worker-1 runs until it is told to stop.",
            "worker-1 ended with status 0 after 0.17 s. It had said: connected; TODO 1 "
            "(worker/queue.py): claim the oldest pending task",
            (Evidence("All lines of worker-1", (
                "connected; TODO 1 (worker/queue.py): claim the oldest pending task",)),)),
        "steps": ("T1 was added to the table of tasks.", "worker-1 was started."),
        "timeline": tuple(timeline.rows(tale.events, broke)),
    }
    return lab_result(waits, seconds=1.1)


def could_not_grade() -> LabResult:
    """One check that the kit could not judge."""
    return lab_result(
        {"survives_a_database_restart": {
            "verdict": COULD_NOT_GRADE,
            "reason": "PostgreSQL stopped answering: the container worker-labs-postgres is gone.",
        }},
        submission="my work/it's $5",
        services={"postgres": "containers (PostgreSQL 18.1, postgres:18)"},
    )


def exploring() -> LabResult:
    """An exploration that broke at two moments and left one out."""
    claim = "“UPDATE tasks SET status = 'processing', … WHERE id = $2”"
    told = "T1 stayed in “processing”"
    moments = (
        MomentResult("1", "killed after PostgreSQL had accepted its connection",
                     "one pending task", HELD),
        MomentResult("2", f"killed after PostgreSQL had committed {claim}, before the worker heard "
                     "of it", "one pending task", "task-left-in-processing", told),
        MomentResult("3", "killed while the outside world did the work of T1", "one pending task",
                     "task-left-in-processing", told),
        MomentResult("4", "killed after the work of T1 was done, before the worker heard of it",
                     "one pending task", NOT_EXPLORED, "“answer to call T1” did not come in this "
                     "run"),
    )
    broke = [m for m in moments if m.outcome == "task-left-in-processing"]
    return lab_result({
        "never_executes_a_task_twice": {
            "verdict": FAILED,
            "coverage": Coverage("crash point", 3, moments,
                                 ("one stuck task: it was not its first poll that took it up",)),
            "finding": FindingReport(
                "task-left-in-processing",
                "Whenever the worker is killed (SIGKILL), another worker brings its task to the "
                "right end.",
                f"With one pending task, {moments[1].words}: {told}. It broke alike at 2 of 3 "
                "crash points.",
                (Evidence("All crash points that broke",
                          ("task-left-in-processing, at 2 of 3:",
                           *(f"  STEP={m.step}  {m.words}" for m in broke))),),
            ),
            "steps": ("Put in place: one pending task. Started worker-1.",
                      f"Killed worker-1 with SIGKILL {moments[1].words[len('killed '):]}.",
                      "Gave what was left, unchanged, to another worker, which was ready before "
                      "and went on polling."),
        },
    })


HOSTILE = (
    "漢字" * 120,
    "x" * 700,
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \r\b\b back \x00 nul \x9b1m csi",
    "\u202eright to left\u2066 \u2028 separator \ufeff bom \udcff surrogate",
    "a\tb\nc\r\nd" + " " * 300 + "e",
    "👩‍👩‍👧‍👦 ❤️ " * 60,
    "e" + "\u0301" * 400,
    "",
)


def hostile() -> LabResult:
    """All texts that come from outside are as bad as they can be."""
    tale = Tale()
    for n, text in enumerate(HOSTILE):
        tale.task(f"{T1[:-2]}{n:02}", f"T{n}", title=text)
        tale.start(f"worker-{n % 3}")
        tale.log(f"worker-{n % 3}", text)
        tale.say(f"worker-{n % 3}", f"SELECT {text!r} FROM {text}", error=text or None)
        tale.finish(tale.call(f"worker-{n % 3}", text), answer=text)
        tale.add(h.NOTE, "grader", text)
    long = " ".join(HOSTILE)
    return lab_result(
        {"never_executes_a_task_twice": {
            "verdict": FAILED,
            "title": long,
            "why": long,
            "finding": FindingReport("task-executed-twice", long, long, (
                *(Evidence(text, (text,)) for text in HOSTILE),
                Evidence("many", tuple(f"line {n}" for n in range(400))),
            )),
            "steps": (*HOSTILE, *(f"step {n}" for n in range(40))),
            "timeline": tuple(timeline.rows(tale.events, len(tale.events) // 2)),
        },
         "never_waits_for_a_lock": {"verdict": NOT_CHECKED, "reason": long},
         "finishes_the_task_on_sigterm": {"coverage": Coverage(
             "moment", 9, tuple(MomentResult(text, text, text, text, text) for text in HOSTILE),
             HOSTILE)},
         "survives_a_database_restart": {"verdict": COULD_NOT_GRADE, "reason": long}},
        title=long, submission=long, notes=HOSTILE, unanswered=HOSTILE,
        services={"postgres": long}, extra={"k\udcff": [float("nan"), object]},
    )
