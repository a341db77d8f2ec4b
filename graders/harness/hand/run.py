"""`make run`: workers in the foreground, their logs side by side.

They run in the student's own folder, with the environment that the grader gives them, so that
what works here works there. Each line says which worker wrote it and its pid: `kill -15` and
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graders.harness import settings
from graders.harness.hand import servers
from graders.harness.keeper import Keeper, SpawnError
from graders.harness.report.text import clean
from graders.harness.settings import SettingError
from graders.harness.submission import Submission, SubmissionError, base_env, read_procfile

# Of the user's own environment, what the handouts tell to set.
PASSED_ON = ("WORKER_ID", "WORKER_POLL_INTERVAL", "WORKER_STUCK_AFTER", "WORK_URL")
LAST_LINES = 2.0  # seconds for output that comes after the end of its process
NO_LIMITS: dict[str, Any] = {}  # the keeper takes a process with None for one of its own servers


class _Worker:
    """One worker, its pipe and its prefix."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.marker = ""
        self.reader: threading.Thread | None = None

    @property
    def prefix(self) -> str:
        return f"[{self.name} pid {self.pid}]"


def main(env: Mapping[str, str]) -> int:
    """Run N workers until all have ended; 1 if one ended with an error of its own."""
    chosen = settings.read(env)
    lab, folder = chosen.the_lab, chosen.submission.resolve()
    try:
        submission = Submission(folder, folder, read_procfile(folder))
        submission.command("worker", {})
    except SubmissionError as error:
        raise SettingError(str(error)) from None
    told = servers.variables(lab, env) | {n: env[n] for n in PASSED_ON if env.get(n)}
    with Keeper.start() as keeper:
        run_dir = Path(tempfile.mkdtemp(prefix="wl-run-"))
        keeper.tidy(run_dir)
        base = base_env(Path(sys.executable).parent, run_dir) | told
        try:
            for line in submission.build(keeper, base):
                print(f"[build] {clean(line)}")
            return _Run(keeper, submission, base).run(chosen.n or 1)
        except (SubmissionError, SpawnError) as error:
            raise SettingError(str(error)) from None


class _Run:
    """All workers of one `make run`. Everything that happens comes in by one queue."""

    def __init__(self, keeper: Keeper, submission: Submission, env: dict[str, str]) -> None:
        self.keeper = keeper
        self.submission = submission
        self.env = env
        self.out = threading.Lock()
        # SimpleQueue.put may be called in a signal handler.
        self.events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.living: dict[int, _Worker] = {}

    def run(self, number: int) -> int:
        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {
            each: signal.signal(each, lambda signum, _: self.events.put(("signal", signum)))
            for each in caught
        }
        try:
            for n in range(1, number + 1):
                self._start(_Worker(f"worker-{n}"))
            return self._watch()
        finally:
            for worker in list(self.living.values()):
                with contextlib.suppress(SpawnError, TimeoutError):
                    self.keeper.kill_tree(worker.marker)
            for each, handler in before.items():
                signal.signal(each, handler)

    def _start(self, worker: _Worker) -> None:
        # WORKER_ID is the user's to set: two `make run` must not give two workers one name.
        env = dict(self.env)
        if "WORKER_ID" in env and worker.name != "worker-1":
            env["WORKER_ID"] += worker.name.removeprefix("worker")
        argv = self.submission.command("worker", env)
        worker.marker = self.keeper.marker(worker.name)
        read, write = os.pipe()
        try:
            worker.pid = self.keeper.spawn(
                argv, env=env, cwd=self.submission.copy, stdout=write, stderr=write,
                marker=worker.marker, limits=NO_LIMITS,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.living[worker.pid] = worker
        self._print(worker, f"started: {' '.join(argv)}")
        worker.reader = threading.Thread(target=self._read, args=(worker, read), daemon=True)
        worker.reader.start()
        self.keeper.on_exit(
            worker.pid, lambda code, name: self.events.put(("exit", worker, code, name))
        )

    def _read(self, worker: _Worker, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="backslashreplace") as pipe:
            for line in pipe:
                self._print(worker, line.rstrip("\r\n"))

    def _print(self, worker: _Worker, text: str) -> None:
        with self.out, contextlib.suppress(OSError, ValueError):
            print(worker.prefix, clean(text), flush=True)

    def _watch(self) -> int:
        status, stops = 0, 0
        while self.living:
            what, *told = self.events.get()
            if what == "exit":
                worker, code, name = told
                if worker.reader:
                    worker.reader.join(LAST_LINES)
                how = f"ended by {name}" if name else f"ended with status {code}"
                if code is None and not name:
                    how = "has gone; nobody knows how it ended"
                self._print(worker, how)
                self.living.pop(worker.pid, None)
                # A worker that was killed in the handout's steps did not fail: 0 stays 0.
                status = status or int(bool(code) or (code is None and not name))
                continue
            (signum,) = told
            stops += 1
            if stops == 1 and signum != signal.SIGHUP:
                self._stop(signum)
            else:  # asked twice, or the terminal has gone
                self._kill()
        return status

    def _stop(self, signum: int) -> None:
        interrupt = signum == signal.SIGINT
        if interrupt and sys.stdout.isatty():
            print("\nEach worker has got SIGINT. Ctrl-C once more kills them.", flush=True)
        for worker in list(self.living.values()):
            with contextlib.suppress(SpawnError):  # it may end at this moment
                self.keeper.signal(worker.pid, signum, group=interrupt)

    def _kill(self) -> None:
        for worker in list(self.living.values()):
            with contextlib.suppress(SpawnError, TimeoutError):
                self.keeper.kill_tree(worker.marker)
