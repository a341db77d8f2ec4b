"""What a check is, and what a check can find.

A check is a pytest test whose docstring is its rubric: the first line is what the student reads in
the list of checks, the rest says why it matters. Its outcome is one of four verdicts (results.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graders.harness.results import Evidence

# Every code that a finding can carry, and what it means. Codes are stable: mutants, results.json
# and class summaries refer to them.
CODES: Mapping[str, str] = {
    # The submission itself
    "submission-unusable": "The folder cannot be started: its Procfile is missing or broken",
    "build-failed": "The Procfile's build command failed",
    "command-not-found": "The command of the Procfile could not be started",
    # A process and its limits
    "worker-exited": "The worker ended although nothing had told it to",
    "never-connected": "The worker never connected to the database",
    "never-polled": "The worker connected, but never asked the tasks table for work",
    "output-flood": "The worker wrote more output than is allowed",
    "memory-exhausted": "The worker used more memory than is allowed",
    "too-many-processes": "The worker started more processes than are allowed",
    "disk-filled": "The worker wrote more to the disk than is allowed",
    "api-exited": "The API ended although nothing had told it to",
    "api-never-ready": "The API never answered GET /health",
    "half-migrated": "The schema is not what all migrations together make of it",
    "request-dropped": "A request in flight was not answered as it should when the API was stopped",
    "migration-failed": "A migration ended, and not with exit status 0",
    # Starting
    "started-misconfigured": "The API started although a variable is missing or wrong",
    "started-without-database": "The program went on although it had no usable server",
    "status-0-on-refusal": "The worker refused to start, but with exit status 0",
    "traceback-on-refusal": "The worker refused to start with a traceback instead of a sentence",
    "cause-not-named": "The refusal does not name what is wrong",
    "password-shown": "The database's password stands in the log",
    "log-line-missing": "A line that the logs need to tell the story is not there",
    # Working
    "task-never-executed": "A task's work was never done",
    "task-executed-twice": "A task's work was done twice",
    "task-left-pending": "A task is still pending although it should have been taken",
    "task-lost": "A task is gone: it is in no queue, and has no result",
    "task-left-in-processing": "A task is still in processing although its work has ended",
    "task-wrongly-failed": "A task is marked failed although its work was done",
    "task-wrongly-completed": "A task is marked completed although its work was not done",
    "completed-before-the-work": "A task was marked completed before its work was done",
    "wrong-order": "A younger task was taken before an older one",
    "paused-between-tasks": "The worker waited although there were tasks left",
    "busy-polling": "The worker asks for work again without waiting",
    "slow-polling": "The worker waits much longer than its interval between empty polls",
    "wait-abandoned": "The worker gave up a wait that it had asked Redis for",
    "busy-retrying": "The worker tries again without a pause while Redis is away",
    "unknown-type-executed": "A task of an unknown type was carried out",
    "malformed-executed": "Work was done for an entry of the queue that is no job",
    "malformed-not-kept": "An entry of the queue that is no job was not put aside as it came",
    "result-missing": "A job that was done has no result",
    "result-wrong": "A job's result does not say what it should",
    "result-kept-wrongly": "A job's result is not kept for as long as it should be",
    # Answering requests
    "request-unanswered": "A request got no answer",
    "wrong-status-code": "A request was answered with the wrong HTTP status",
    "wrong-answer": "An answer does not say what it should",
    "bad-input-accepted": "Input that cannot be used was accepted",
    "server-error": "A request was answered with a server's error (5xx)",
    "not-well-again": "The API did not become well again with its server",
    "stored-twice": "One request was stored twice",
    "row-wrong": "The rows are not what the answer to a request says of them",
    "sql-injected": "Text of a request was run as SQL",
    "wrong-page": "A page of a list does not have what it should, or not in its order",
    "error-shown": "An answer shows the client the inside of an error",
    "change-lost": "One change of a task undid another one, of somebody else",
    "wrong-shape": "An answer does not have the one shape: data and error",
    "health-untrue": "GET /health does not tell whether the database can be used",
    "outage-not-told": "While the database was away a request was not answered with 503",
    "too-many-connections": "The API opened more connections than it may",
    "document-unusable": "The OpenAPI document is missing, or describes nothing",
    "undocumented-answer": "An answer has a status that the OpenAPI document does not name",
    "answer-not-as-documented": "An answer does not look as the OpenAPI document says",
    "answered-too-early": "A request was answered before what it asks for was done",
    "refused-but-stored": "A request was refused, and something of it was stored all the same",
    "task-stored-wrong": "What is stored of a task is not what was asked for",
    "jobs-wrong": "The jobs in the queue are not those of the task, or not in their order",
    "half-written": "A part of what belongs together was written, and the rest was not",
    # Migrating
    "schema-wrong": "The migrations do not build the schema that is asked for",
    "not-applied": "A migration was not applied, and the run ended with exit status 0",
    "applied-again": "A migration was applied a second time",
    "not-undone": "What a migration has made is still there after it was undone",
    "failure-hidden": "A migration failed, and the run ended with exit status 0",
    # The image
    "dockerfile-unusable": "There is no Dockerfile, or Docker cannot read it",
    "dependencies-not-pinned": "A package is installed without its exact version",
    "dependencies-not-installed": "The Dockerfile installs no packages",
    "code-before-dependencies": "The code is copied before the packages are installed",
    "single-stage": "The image is not built in stages, or the last takes nothing from another",
    "built-in-the-last-stage": "The last stage builds or fetches packages itself",
    "runs-as-root": "The program runs as root in its container",
    "shell-keeps-signals": "A shell stands between Docker and the program",
    "no-command": "The image does not say what to start",
    "context-not-ignored": "The build takes in what does not belong into an image",
    "copy-source-missing": "The Dockerfile copies what is not in the build context",
    "image-not-built": "The image cannot be built",
    "image-not-started": "A container of the image cannot be started",
    # Stopping
    "task-dropped-on-stop": "The task in hand was dropped when the worker was told to stop",
    "wrong-exit-status": "The worker stopped, but not with exit status 0",
    "still-running": "The worker was told to stop and did not",
    "claimed-after-stop": "The worker took another task after it was told to stop",
    "connection-not-closed": "The worker ended without closing its database connection",
    # Claiming
    "claim-not-visible": "Others cannot see that the task is being worked on",
    "wrong-worker-name": "The claim does not carry the worker's own name",
    "claim-time-not-set": "The claim did not set updated_at",
    "transaction-open-during-work": "A transaction stayed open while the work was done",
    "table-locked": "A lock keeps everybody else out of the table while work is done",
    "waits-for-lock": "A worker waits for another worker's lock although another task is free",
    "no-skip-locked": "The claim does not use FOR UPDATE SKIP LOCKED",
    "one-worker-idle": "A worker had no share of the work",
    # Recovering
    "task-not-recovered": "The task of a dead worker was not taken up again",
    "living-task-taken": "The task of a living worker was taken from it",
    "dead-connection": "The worker lives on without a working connection and does nothing",
    # Answers
    "diagram-missing": "DATAFLOW.md has no sequence diagram",
    "diagram-incomplete": "The diagram lacks a message that was observed",
}


class Finding(AssertionError):
    """What a check found broken: always a true sentence about what happened.

    `expected` is the one expectation that broke, `seen` what was seen instead.
    """

    def __init__(
        self, code: str, expected: str, seen: str, evidence: Iterable[Evidence] = ()
    ) -> None:
        assert code in CODES, f"unknown finding code {code!r}"
        super().__init__(f"[{code}] {expected} {seen}")
        self.code = code
        self.expected = expected
        self.seen = seen
        self.evidence = tuple(evidence)


class CouldNotGrade(Exception):
    """The kit, its servers or this machine failed. Never the student's fault, costs no points."""


@dataclass(frozen=True)
class Check:
    """One check of a lab, as its decorator and docstring declare it."""

    name: str
    exercise: str
    points: int
    needs: tuple[str, ...]
    title: str
    why: str
    run: Callable[[Any], None]
    workers: int = 1
    explores: bool = False


def check(
    exercise: str, *, points: int, needs: Iterable[str] = (), workers: int = 1,
    explores: bool = False,
) -> Callable:
    """Declare a test function a check of an exercise, worth so many points.

    `workers` is how many it starts: the checks that take longest are begun first. One that
    `explores` tries every moment, by many workers.

    `needs` names the checks without which this one would say nothing: where one of them has
    failed, this one is not run, and says which to mend first.
    """

    def declare(function: Callable[[Any], None]) -> Callable[[Any], None]:
        title, _, why = inspect.cleandoc(function.__doc__ or "").partition("\n")
        if not title:
            raise TypeError(f"{function.__name__} has no docstring: it is the rubric line")
        function.declared = Check(
            name=function.__name__.removeprefix("test_"),
            exercise=exercise,
            points=points,
            needs=tuple(needs),
            title=title.strip(),
            why=why.strip(),
            run=function,
            workers=workers,
            explores=explores,
        )
        return function

    return declare


def with_needs(checks: Mapping[str, Check], wanted: Iterable[str]) -> list[str]:
    """The wanted checks and all that they need, in the order in which they are declared."""
    todo, chosen = list(wanted), set()
    while todo:
        name = todo.pop()
        if name not in chosen:
            chosen.add(name)
            todo.extend(checks[name].needs)
    return [name for name in checks if name in chosen]
