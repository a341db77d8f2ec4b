"""Programs of a submission in the foreground, their lines side by side, until all have ended.

They run in the student's own folder, with the environment that the grader gives them, so that
what works here works there. Each line says which program wrote it and its pid: `kill -15` and
`kill -9` in another terminal do what they do anywhere.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graders.harness.hand import servers
from graders.harness.keeper import Keeper, SpawnError
from graders.harness.report.text import clean
from graders.harness.settings import Lab, SettingError, Settings
from graders.harness.submission import Submission, SubmissionError, base_env, read_procfile

LAST_LINES = 2.0  # seconds for output that comes after the end of its process
NO_LIMITS: dict[str, Any] = {}  # the keeper takes a process with None for one of its own servers


@dataclass
class Program:
    """One process of a submission, and what its lines begin with."""

    name: str
    role: str
    env: dict[str, str] = field(default_factory=dict)  # beside what all programs get
    arguments: tuple[str, ...] = ()  # after those in the Procfile
    alone: bool = False  # nothing beside it writes, so that its lines need no name
    pid: int = 0
    marker: str = ""
    reader: threading.Thread | None = None
    code: int | None = None  # how it ended: its exit status,
    by: str | None = None  # or the name of the signal, or neither: nobody knows

    @property
    def failed(self) -> bool:
        """Whether it ended with an error of its own; one that was killed did not."""
        return bool(self.code) or (self.code is None and self.by is None)


def submission_of(chosen: Settings, role: str, instead: Path | str) -> Submission:
    """The folder to run, as it is: the chosen one if it has this role or should have it.

    Where the lab has no such role: the folder `instead`, or what to say. Raises SettingError.
    """
    folder = chosen.submission.resolve()
    try:
        procfile = read_procfile(folder)
        if role not in procfile and role not in chosen.the_lab.roles:
            if isinstance(instead, str):
                raise SettingError(instead)
            folder = instead.resolve()
            procfile = read_procfile(folder)
        submission = Submission(folder, folder, procfile)
        submission.command(role, {})
    except SubmissionError as error:
        raise SettingError(str(error)) from None
    return submission


@contextlib.contextmanager
def foreground(
    submission: Submission, lab: Lab, env: Mapping[str, str], passed_on: tuple[str, ...]
) -> Iterator[Foreground]:
    """A built submission whose programs find the lab's servers.

    Of the user's own environment they get `passed_on`. Nothing of them lives on afterwards. Raises
    SettingError for what cannot be built or started.
    """
    told = servers.variables(lab, env) | {n: env[n] for n in passed_on if env.get(n)}
    with Keeper.start() as keeper:
        run_dir = Path(tempfile.mkdtemp(prefix="wl-run-"))
        keeper.tidy(run_dir)
        base = base_env(Path(sys.executable).parent, run_dir) | told
        try:
            for line in submission.build(keeper, base):
                print(f"[build] {clean(line)}", flush=True)
            yield Foreground(keeper, submission, base)
        except (SubmissionError, SpawnError) as error:
            raise SettingError(str(error)) from None


class Foreground:
    """All programs of one command. Everything that happens comes in by one queue."""

    def __init__(self, keeper: Keeper, submission: Submission, env: dict[str, str]) -> None:
        self.keeper = keeper
        self.submission = submission
        self.env = env
        self.out = threading.Lock()
        # SimpleQueue.put may be called in a signal handler.
        self.events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.living: dict[int, Program] = {}

    def run(
        self, programs: list[Program], started: Callable[[Program], None] = lambda _: None
    ) -> None:
        """Run them until all have ended; `started` is called for each, with its pid known.

        Ctrl-C, SIGTERM and SIGHUP are handed on: the first one softly, a second one kills.
        """
        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {
            each: signal.signal(each, lambda signum, _: self.events.put(("signal", signum)))
            for each in caught
        }
        try:
            for program in programs:
                read = self._start(program)
                started(program)  # before it is heard
                self._hear(program, read)
            self._watch()
        finally:
            self._kill()
            for each, handler in before.items():
                signal.signal(each, handler)

    def _start(self, program: Program) -> int:
        env = self.env | program.env
        argv = [*self.submission.command(program.role, env), *program.arguments]
        program.marker = self.keeper.marker(program.name)
        read, write = os.pipe()
        try:
            program.pid = self.keeper.spawn(
                argv, env=env, cwd=self.submission.copy, stdout=write, stderr=write,
                marker=program.marker, limits=NO_LIMITS,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.living[program.pid] = program
        if not program.alone:
            self._print(program, f"started: {' '.join(argv)}")
        return read

    def _hear(self, program: Program, read: int) -> None:
        program.reader = threading.Thread(target=self._read, args=(program, read), daemon=True)
        program.reader.start()
        self.keeper.on_exit(
            program.pid, lambda code, name: self.events.put(("exit", program, code, name))
        )

    def _read(self, program: Program, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="backslashreplace") as pipe:
            for line in pipe:
                self._print(program, line.rstrip("\r\n"))

    def _print(self, program: Program, text: str) -> None:
        prefix = "" if program.alone else f"[{program.name} pid {program.pid}] "
        with self.out, contextlib.suppress(OSError, ValueError):
            print(f"{prefix}{clean(text)}", flush=True)

    def _watch(self) -> None:
        stops = 0
        while self.living:
            what, *told = self.events.get()
            if what == "exit":
                self._ended(*told)
                continue
            (signum,) = told
            stops += 1
            if stops == 1 and signum != signal.SIGHUP:
                self._stop(signum)
            else:  # asked twice, or the terminal has gone
                self._kill()

    def _ended(self, program: Program, code: int | None, by: str | None) -> None:
        program.code, program.by = code, by
        if program.reader:
            program.reader.join(LAST_LINES)
        self.living.pop(program.pid, None)
        if program.alone and code == 0:
            return
        how = f"ended by {by}" if by else f"ended with status {code}"
        if code is None and not by:
            how = "has gone; nobody knows how it ended"
        self._print(program, f"{program.name} {how}" if program.alone else how)

    def _stop(self, signum: int) -> None:
        interrupt = signum == signal.SIGINT
        if interrupt and sys.stdout.isatty():
            whom, it = "Each worker", "them"
            if all(each.role != "worker" for each in self.living.values()):
                whom, it = "It", "it"
            print(f"\n{whom} has got SIGINT. Ctrl-C once more kills {it}.", flush=True)
        for program in list(self.living.values()):
            with contextlib.suppress(SpawnError):  # it may end at this moment
                self.keeper.signal(program.pid, signum, group=interrupt)

    def _kill(self) -> None:
        for program in list(self.living.values()):
            with contextlib.suppress(SpawnError, TimeoutError):
                self.keeper.kill_tree(program.marker)
