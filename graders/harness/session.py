"""One grading run: servers, submission and keeper, and the checks that run side by side on them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import platform
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graders.harness import answers, results, servers, settings, version
from graders.harness.budgets import NOMINAL_START, Budgets
from graders.harness.check import Check, CouldNotGrade, Finding
from graders.harness.database import Database, DatabaseFactory
from graders.harness.history import History
from graders.harness.jobs import JobsLab, Keyspaces
from graders.harness.keeper import Keeper, KeeperLost, SpawnError
from graders.harness.lab import Lab
from graders.harness.loop import LoopThread
from graders.harness.overload import Overload
from graders.harness.places import Bound, Places
from graders.harness.process import Caps, Process
from graders.harness.report import drawings, json_report, timeline
from graders.harness.results import CheckResult, Evidence, FindingReport, LabResult
from graders.harness.room import Room
from graders.harness.servers.base import run_folder
from graders.harness.submission import Submission, SubmissionError, base_env

# A check mostly waits for its worker: more of them than cores keeps the cores busy.
CHECKS_PER_CORE = (2, 6)  # side by side: at any time, and while the processor is idle
TRIALS = 5  # per core under way at a time, at most, and as many again for the whole machine
STAGE_CONNECTIONS = 6  # of a trial, at most as a rule
SPARE_CONNECTIONS = 40  # for the checks beside them
_runs = itertools.count(1)
LEAST_SPACE = 4 * 2**20  # bytes; with less, a server's errors are the disk's and not the worker's


@dataclass(frozen=True)
class Options:
    """How to grade: from the command line, else from the environment, else the default."""

    submission: str
    services: str
    patience: float
    at_once: int  # checks side by side; 0: as many as keep the cores busy
    seed: int
    partial: bool
    step: str = ""  # one moment of an exploration: "7b"
    api: str = ""  # the folder whose API is used from end to end; the kit's own, if empty
    called: str = ""  # how results name the submission; as `submission` does, if empty

    @property
    def name(self) -> str:
        """The submission, as results name it."""
        return self.called or self.submission

    @classmethod
    def read(
        cls, at_once: int | None = None, called: str = "", **overrides: str | None
    ) -> Options:
        """From the environment, with what a command line said on top (LAB, SRC, SERVICES …).

        Raises settings.SettingError for a value that cannot be used.
        """
        given = {name: value for name, value in overrides.items() if value}
        chosen = settings.read({**os.environ, **given})
        return cls(
            submission=str(chosen.submission),
            services=chosen.services,
            patience=chosen.patience,
            at_once=at_once or 0,
            seed=chosen.seed,
            partial=bool(chosen.checks),
            step=chosen.step or "",
            api=chosen.api or "",
            called=called,
        )


class GradingSession:
    """Runs the checks of one lab against one submission."""

    def __init__(
        self,
        lab_name: str,
        checks: Mapping[str, Check],
        options: Options,
        on_progress: Callable[[GradingSession], None] | None = None,
        write_to: Path | None = None,
        standing: servers.Services | None = None,
        roles: Collection[str] | None = None,
        start_seconds: float | None = None,
        slowest_start: float = math.inf,
    ) -> None:
        """`standing`: servers that run already and are left running, for many runs in a row.

        `roles`: what the submission must have a command for, by default all that the lab grades.
        `start_seconds`: what a Python takes to start here, where an earlier run has measured it;
        `slowest_start`: what it takes at most, where one measured now may have met others.
        """
        self.lab_name = lab_name
        self.info = settings.lab(lab_name)
        self.checks = checks
        self.options = options
        self._roles = self.info.graded if roles is None else roles
        self.start_seconds = start_seconds
        self._slowest_start = slowest_start
        self.results: dict[str, CheckResult] = {}
        self.running: dict[str, float] = {}
        self.lab_result: LabResult | None = None
        self.report_path = write_to / "results.json" if write_to is not None else None
        self.stopping = False
        self._cut_short = ""  # why, if it was
        self._stopped_because = "The run was stopped before this check ended."
        self.budgets = Budgets()
        self.notes: list[str] = []
        self.starts: Counter[str] = Counter()  # processes of the submission, by their roles
        self.servers_seconds = 0.0
        self._on_progress = on_progress or (lambda _: None)
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._labs: set[Room] = set()
        least, most = CHECKS_PER_CORE
        checks = Bound(lambda: options.at_once or settings.per_core(most),
                       options.at_once or settings.at_most(most))
        self._places = Places(lambda: options.at_once or settings.per_core(least), checks)
        self._pool = ThreadPoolExecutor(checks.ceiling, thread_name_prefix="check")
        self._waiting: list[tuple[int, int, Check]] = []  # for a place: a heap
        self._arrivals = itertools.count()
        # Explorations mostly wait for trials, which run in threads of their own.
        self._explorers = ThreadPoolExecutor(8, thread_name_prefix="exploration")
        self._scheduled: set[str] = set()
        self._finished = False
        self._overload = Overload(self._measure_again)
        self.memo: dict[object, object] = {}  # what checks share in one run: recordings
        self.memo_lock = threading.Lock()
        self.trials = Bound(  # under way at a time
            lambda: TRIALS + settings.per_core(TRIALS), TRIALS + settings.at_most(TRIALS),
            # Beside other gradings, so few that together they are as quiet as one alone.
            at_work=lambda: settings.of_machine(TRIALS) + settings.per_core(TRIALS),
        )
        self.stages = threading.Semaphore(self.trials.ceiling)  # as connections allow
        # What is started in prepare
        self.keeper: Keeper | None = None
        self.loop: LoopThread | None = None
        self.services: servers.Services | None = None
        self._standing = standing
        self.databases: DatabaseFactory | None = None
        self._other_api: Submission | None = None
        self._empty_databases: DatabaseFactory | None = None
        self.keyspaces: Keyspaces | None = None
        self.submission: Submission | None = None
        self.run_dir: Path | None = None

    # Set-up

    def start(self) -> None:
        """Begin in the background; `result_of` waits for the verdicts."""
        threading.Thread(target=self._grade, name="grading", daemon=True).start()

    def _grade(self) -> None:
        try:
            self.prepare()
        except SubmissionError as error:
            self._end_all(error)
        except Exception as error:
            self._end_all(_as_could_not_grade(error))
        else:
            self._schedule()

    def prepare(self) -> None:
        """Servers, submission and machine speed, side by side."""
        known = self.start_seconds
        self.keeper = Keeper.start()
        self.run_dir = run_folder("wl-")
        self.keeper.tidy(self.run_dir)
        self.loop = LoopThread()
        with ThreadPoolExecutor(3) as pool:
            databases = pool.submit(self._start_servers)
            submission = pool.submit(self._load_submission)
            speed = pool.submit(self._measure_start if known is None else lambda: known)
            problems = [f.exception() for f in (databases, submission, speed)]
        # The kit's own trouble comes first: it says nothing about the submission.
        for problem in (problems[0], problems[2], problems[1]):
            if problem is not None:
                raise problem
        start = speed.result()
        if known is None and start > NOMINAL_START * 1.5:
            # It may have been our own servers' start that slowed it.
            start = min(start, self._measure_start())
        self.start_seconds = start
        self.budgets = Budgets().scaled(self.options.patience, min(start, self._slowest_start))

    def _start_servers(self) -> None:
        began = time.monotonic()
        self.services = self._standing or servers.start(
            set(self.info.services), self.options.services, self.keeper, self.run_dir
        )
        self.servers_seconds = time.monotonic() - began
        self.notes.extend(self.services.notes)
        if self.services.redis is not None:
            self.keyspaces = Keyspaces(self.services.redis)
        if self.services.postgres is not None:
            # One process may hold several runs, on one server.
            run = f"{os.getpid()}x{next(_runs)}"
            self.databases = DatabaseFactory(
                self.services.postgres, self.info.schema_sql, run, tidy=self._standing is not None
            )
            # Each needs some connections: two of ours, and those of its workers.
            room = (self.databases.max_connections - SPARE_CONNECTIONS) // STAGE_CONNECTIONS
            self.trials.ceiling = max(4, min(room, self.trials.ceiling))
        self.stages = threading.Semaphore(self.trials.ceiling)

    def _load_submission(self) -> None:
        self.submission = Submission.load(Path(self.options.submission), self.run_dir)
        # One without the roles of this lab is refused here, before anything is started.
        for role in self._roles:
            self.submission.command(role, {})
        self.submission.build(self.keeper, self.environment())

    def _measure_start(self, bound: float = 0.0) -> float:
        """Seconds that a bare Python with psycopg takes to start here, now.

        With a bound it is ended after so many, and they are what it took.
        """
        log = History()
        began = time.monotonic()
        process = Process.start(
            self.keeper, self.loop, log, "measure",
            [sys.executable, "-c", "import psycopg"],
            base_env(Path(sys.executable).parent, self.run_dir), self.run_dir, Caps(),
        )  # fmt: skip
        ended = process.wait_exit(bound or 60 * self.options.patience)
        if bound and ended is None:
            process.close()
            return bound
        if ended is None or ended.code != 0:
            said = "; ".join(line.text for line in process.lines[-2:])
            raise CouldNotGrade(f"The kit's own Python cannot import psycopg: {said or ended}")
        return max(time.monotonic() - began, NOMINAL_START / 2)

    # What labs need

    def environment(self) -> dict[str, str]:
        """The environment of a student process, without the variables of its role."""
        return base_env(Path(sys.executable).parent, self.run_dir)

    def empty_database(self) -> Database:
        """A database with nothing in it, which the student's role owns."""
        with self._lock:
            if self._empty_databases is None:
                self._empty_databases = DatabaseFactory(
                    self.services.postgres, "", f"{os.getpid()}x{next(_runs)}", ahead=1, owned=True,
                    tidy=self._standing is not None,
                )
        return self._empty_databases.new()

    def other_api(self, kits: Path) -> Submission:
        """The submission whose API serves a check: that of API=, else the kit's own, in `kits`.

        Raises Finding where API= names none that can be started.
        """
        with self._lock:
            if self._other_api is None:
                try:
                    path = Path(self.options.api) if self.options.api else kits
                    self._other_api = Submission.load(path, self.run_dir)
                    self._other_api.command("api", {})
                    self._other_api.build(self.keeper, self.environment())
                except SubmissionError as error:
                    raise Finding(
                        "submission-unusable", "The folder that API= names holds an API.",
                        str(error),
                    ) from None  # fmt: skip
            return self._other_api

    def private_copy(self, name: str) -> Path:
        """A copy of the submission for one check alone, which may change it."""
        private = self.run_dir / "copies" / name
        shutil.copytree(self.submission.copy, private, symlinks=True)
        return private

    def room(self, check_name: str) -> Room:
        """What a check of this lab holds in its hands."""
        return (Lab if "postgres" in self.info.services else JobsLab)(self, check_name)

    def spawn(
        self, role: str, marker: str, name: str, env: dict[str, str], history: History,
        arguments: tuple[str, ...] = (), cwd: Path | None = None,
        submission: Submission | None = None,
    ) -> Process:
        """Start a process of the submission, with `arguments` after those of its Procfile.

        `cwd` is the folder it is started in, by default the copy of its submission, by default the
        one that is graded. Raises Finding if its command cannot be started.
        """
        private = self.run_dir / "tmp" / marker
        private.mkdir(parents=True, exist_ok=True)
        env = {**env, "TMPDIR": str(private)}
        submission = submission or self.submission
        argv = [*submission.command(role, env), *arguments]
        with self._lock:
            self.starts[role] += 1
        try:
            return Process.start(
                self.keeper, self.loop, history, name, argv, env, cwd or submission.copy,
                Caps(),
            )
        except KeeperLost as error:
            raise CouldNotGrade(str(error)) from None
        except SpawnError as error:
            raise Finding(
                "command-not-found",
                f"The Procfile's command for “{role}” can be started.",
                f"It could not: {error}",
                [Evidence("The command", (" ".join(argv),))],
            ) from None

    # Running checks

    def result_of(self, name: str) -> CheckResult:
        """The result of a check; waits until it is there."""
        with self._done:
            while name not in self.results:
                self._done.wait(0.5)
            return self.results[name]

    def _schedule(self) -> None:
        """Start every check whose needs have all passed; end those whose needs have not."""
        exploring: list[Check] = []
        placed = 0
        with self._lock:
            changed = True
            while changed:  # what ends here can end others
                changed = False
                for check in self.checks.values():
                    if check.name in self._scheduled or self.stopping:
                        continue
                    needs = [self.results.get(n) for n in check.needs if n in self.checks]
                    if any(need is None for need in needs):
                        continue
                    self._scheduled.add(check.name)
                    changed = True
                    broken = [need for need in needs if need.verdict != results.PASSED]
                    if broken:
                        self._record(_not_run(check, broken))
                    elif check.explores:
                        exploring.append(check)
                    else:
                        heapq.heappush(self._waiting, (-check.workers, next(self._arrivals), check))
                        placed += 1
        for check in exploring:
            self._explorers.submit(self._run, check)
        for _ in range(placed):
            self._pool.submit(self._run_next)
        self._on_progress(self)

    def _record(self, result: CheckResult) -> None:
        """Keep a result. The caller holds the lock."""
        self.results[result.name] = result
        self.running.pop(result.name, None)
        self._done.notify_all()

    def _run_next(self) -> None:
        """Wait for a place; then run the check that takes longest of those that are waiting."""
        with self._places.place():
            with self._lock:
                check = heapq.heappop(self._waiting)[-1]
            self._run(check)

    def _run(self, check: Check) -> None:
        began = time.monotonic()
        with self._lock:
            self.running[check.name] = began
        self._on_progress(self)
        lab = None
        verdict, reason, finding = results.PASSED, "", None
        try:
            if self.stopping:
                raise CouldNotGrade(self._stopped_because)
            lab = self.room(check.name)
            with self._lock:
                self._labs.add(lab)
            if self.stopping:
                lab.history.close()  # whoever stops the run may not have seen it
            check.run(lab)
        except Finding as found:
            verdict = results.FAILED
            evidence = tuple(self._named(each) for each in found.evidence)
            finding = FindingReport(found.code, found.expected, found.seen, evidence)
            if reason := self._own_trouble():
                verdict, finding = results.COULD_NOT_GRADE, None
        except SubmissionError as error:  # a role that no other check has asked for
            verdict = results.FAILED
            finding = self._unusable(error)
        except Exception as error:
            verdict, reason = results.COULD_NOT_GRADE, str(_as_could_not_grade(error))
        steps, rows = (), ()
        if lab is not None:
            steps = tuple(lab.steps)
            if verdict != results.PASSED:
                rows = tuple(self._named(row) for row in timeline.rows(lab.events_to_show()))
            with contextlib.suppress(Exception):
                lab.close()
        if self.stopping:
            verdict, reason, finding = results.COULD_NOT_GRADE, self._stopped_because, None
        with self._lock:
            self._labs.discard(lab)
            self._record(
                CheckResult(
                    name=check.name, exercise=check.exercise, title=check.title, why=check.why,
                    points=check.points, verdict=verdict, needs=check.needs, reason=reason,
                    finding=finding, steps=steps, timeline=rows,
                    coverage=lab.coverage if lab is not None else None,
                    seconds=time.monotonic() - began,
                )
            )  # fmt: skip
        self._schedule()

    def _named(self, shown: Any) -> Any:
        """Evidence or a row of a timeline, with the submission named as its author does."""
        if isinstance(shown, Evidence):
            return replace(shown, lines=tuple(map(self._as_called, shown.lines)))
        return replace(
            shown, text=self._as_called(shown.text), detail=self._as_called(shown.detail)
        )

    def _as_called(self, text: str) -> str:
        """A text with the submission named as its author does.

        A traceback names files of the copy, which is gone when the student reads it.
        """
        if self.submission is not None:
            text = text.replace(str(self.submission.copy), self.options.name)
        return text.replace(self.options.submission, self.options.name)

    def _own_trouble(self) -> str:
        """What is wrong with the servers or this machine: asked before a finding is believed."""
        if self.stopping:
            return ""
        if not self.keeper.alive:
            return "The grader's own keeper process has gone."
        if self.loop.errors:
            return f"The grader's own proxy failed: {self.loop.errors[0]!r}"
        folders = [self.run_dir, *(server.folder for server in self.services.all)]
        try:
            if any(shutil.disk_usage(f).free < LEAST_SPACE for f in folders if f is not None):
                return "There is no space left on the disk."
            if busy := self._overload.why(self.budgets.factor, self.keeper.pid):
                return busy
            if self.services.healthy():
                return ""
        except Exception as error:  # whatever it is, it is not the worker's
            return f"A server of the grader's cannot be asked: {error}"
        return "A server that the grader had started has gone."

    def _measure_again(self, bound: float) -> float | None:
        """As `_measure_start`; None when the run is stopped, or it cannot be measured."""
        with contextlib.suppress(CouldNotGrade, SpawnError):
            return None if self.stopping else self._measure_start(bound)
        return None

    def _unusable(self, error: SubmissionError) -> FindingReport:
        """The finding that the submission cannot be started."""
        code = "build-failed" if error.code == "build-failed" else "submission-unusable"
        expected = "The folder can be started as its Procfile says."
        return FindingReport(code, expected, self._as_called(str(error)))

    def _end_all(self, error: Exception) -> None:
        """Give every check the verdict that follows from a set-up that failed."""
        with self._lock:
            for check in self.checks.values():
                if check.name in self.results:
                    continue  # the run was cut short, which may be why this went wrong
                needs = [self.results[n] for n in check.needs if n in self.results]
                if isinstance(error, SubmissionError) and not needs:
                    self._record(_result(check, results.FAILED, finding=self._unusable(error)))
                elif isinstance(error, SubmissionError):
                    self._record(_not_run(check, needs))
                else:
                    self._record(_result(check, results.COULD_NOT_GRADE, reason=str(error)))
        self._on_progress(self)

    # The end

    def cut_short(self, because: str) -> None:
        """Stop all checks that have not ended: they could not be graded, `because` says why.

        Those that run need a moment for it; `result_of` waits for them.
        """
        self._stopped_because = self._cut_short = because
        self.stopping = True
        with self._lock:
            for check in self.checks.values():
                if check.name not in self._scheduled and check.name not in self.results:
                    self._scheduled.add(check.name)
                    self._record(_result(check, results.COULD_NOT_GRADE, reason=because))
        self._wake()
        self._on_progress(self)

    def _wake(self) -> None:
        """Let whoever waits in a check go on: nothing more will come."""
        with self._lock:
            labs = list(self._labs)
        for lab in labs:
            lab.history.close()

    def finish(self) -> LabResult | None:
        """Stop everything that was started, and write the results unless the run was stopped."""
        if self._finished:
            return self.lab_result
        self._finished = True
        self.stopping = True
        complete = all(name in self.results for name in self.checks)
        self._wake()
        for pool in (self._pool, self._explorers):
            pool.shutdown(wait=complete, cancel_futures=True)
        for close in (
            self.databases and self.databases.close,
            self._empty_databases and self._empty_databases.close,
            self.services and self._standing is None and self.services.stop,
            self.loop and self.loop.stop,
            self.keeper and self.keeper.close,
        ):
            if close:
                with contextlib.suppress(Exception):
                    close()
        if self.run_dir is not None:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        if complete:
            self._write()
        return self.lab_result

    def _write(self) -> None:
        ordered = [self.results[name] for name in self.checks]
        self.lab_result = LabResult(
            lab=self.lab_name,
            title=self.info.title,
            submission=self.options.name,
            kit_version=version.version(),
            services=self.services.describe() if self.services else {},
            seed=self.options.seed,
            started=self._started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=time.monotonic() - self._began,
            exercises=dict(self.info.exercises),
            checks=tuple(ordered),
            partial=self.options.partial,
            unanswered=tuple(answers.unanswered(Path(self.options.submission) / "ANSWERS.md")),
            notes=tuple(self.notes),
            extra={
                "python": platform.python_version(),
                "platform": platform.system(),
                "processes_started": self.starts.total(),
                "time_factor": round(self.budgets.factor, 2),
                **({"cut_short": self._cut_short} if self._cut_short else {}),
                **({"api": self.options.api} if self.options.api else {}),
            },
        )
        if self.report_path is None:
            return
        folder = self.report_path.parent
        try:
            drawn = replace(drawings.write(self.lab_result, folder), folder=_as_named(folder))
            json_report.write(drawn, self.report_path)
            if not self.options.partial and self._is_the_starter():
                json_report.write(drawn, self.report_path.with_name("score.json"))
            drawings.remove_old(drawn, folder)
            self.lab_result = drawn
        except OSError as error:
            problem = f"The results could not be written to {self.report_path}: {error.strerror}."
            self.lab_result = replace(
                self.lab_result,
                notes=(*self.lab_result.notes, problem),
                extra={**self.lab_result.extra, "not_written": problem},
            )

    def _is_the_starter(self) -> bool:
        """Whether it is the student's own work that is graded, and not another folder."""
        return Path(self.options.submission).resolve() == self.info.starter.resolve()


def _as_named(folder: Path) -> str:
    """A folder as somebody in the project's own folder names it."""
    inside = folder.is_relative_to(settings.ROOT)
    return str(folder.relative_to(settings.ROOT) if inside else folder)


def _result(check: Check, verdict: str, **more: object) -> CheckResult:
    return CheckResult(
        name=check.name, exercise=check.exercise, title=check.title, why=check.why,
        points=check.points, verdict=verdict, needs=check.needs, **more,
    )  # fmt: skip


def _not_run(check: Check, broken: list[CheckResult]) -> CheckResult:
    """The result of a check that was not run because of what it needs."""
    ungraded = [b.name for b in broken if b.verdict == results.COULD_NOT_GRADE]
    if ungraded:
        reason = f"It needs {ungraded[0]}, which could not be graded."
        return _result(check, results.COULD_NOT_GRADE, reason=reason)
    # Name the check to mend first: the one that failed, not one that was itself not run.
    failed = [b.name for b in broken if b.verdict == results.FAILED] or [
        name for b in broken for name in b.reason.split("“")[1:2]
    ]
    first = failed[0].split("”")[0] if failed else broken[0].name
    return _result(check, results.NOT_CHECKED, reason=f"Mend “{first}” first.")


def _as_could_not_grade(error: Exception) -> Exception:
    """One sentence for the kit's own failure; its traceback goes to standard error if asked for."""
    if os.environ.get("VERBOSE", "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, CouldNotGrade):
        return error
    if isinstance(error, OSError) and error.errno == 28:
        return CouldNotGrade("There is no space left on the disk.")
    text = str(error).strip().splitlines()
    return CouldNotGrade(
        text[0] if isinstance(error, servers.ServerError) and text else
        f"The grader itself failed ({type(error).__name__}: {text[0] if text else 'no message'})."
    )  # fmt: skip
