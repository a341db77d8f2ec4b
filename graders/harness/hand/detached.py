"""A stand-in for the keeper whose servers live on after `make up` has ended."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from graders.harness.keeper import signal_name

STOP_BOUND = 10.0  # seconds that a server has between being asked to stop and being killed


@dataclass(frozen=True)
class Running:
    """A process that can be found again later: a pid alone may have gone to another process."""

    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """The process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            # Linux computes this from the boot time, which a clock being set moves a little.
            same = abs(process.create_time() - self.created) < 2
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def stop(self) -> None:
        """End it and everything it has started; at once where it does not listen."""
        process = self.process()
        if process is None:
            return
        family = [process, *_children(process)]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGQUIT)  # PostgreSQL: stop without writing anything
        _, left = psutil.wait_procs([process], timeout=STOP_BOUND / 2)
        for each in [*left, *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=STOP_BOUND / 2)


@dataclass
class Detached:
    """Starts servers as `servers.Spawner` asks for it, and remembers how to end them later."""

    running: list[Running] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # of containers
    _started: dict[int, tuple[subprocess.Popen[bytes], str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spawn(
        self,
        argv: list[str],
        *,
        env: dict[str, str],
        cwd: Path,
        stdout: int | None,
        stderr: int | None,
        user: str | None = None,
        marker: str,
        limits: dict[str, Any] | None,
    ) -> int:
        """Start a program in a session of its own, where no Ctrl-C of this terminal comes."""
        as_user: dict[str, Any] = {}
        if user:
            entry = pwd.getpwnam(user)
            as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        process = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=subprocess.DEVNULL if stderr is None else stderr,
            start_new_session=True, **as_user,
        )
        with self._lock:
            self._started[process.pid] = (process, marker)
            with contextlib.suppress(psutil.NoSuchProcess):
                self.running.append(Running(process.pid, psutil.Process(process.pid).create_time()))
        return process.pid

    def on_exit(self, pid: int, callback: Callable[[int | None, str | None], None]) -> None:
        """Have the callback called when this process has ended, while this command still runs."""
        process, _ = self._started[pid]

        def wait() -> None:
            code = process.wait()
            callback(*((code, None) if code >= 0 else (None, signal_name(-code))))

        threading.Thread(target=wait, daemon=True).start()

    def signal(self, pid: int, signum: int, group: bool = False) -> None:
        """Send a signal to a process that was started here, or to its group."""
        process, _ = self._started[pid]
        if group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signum)
        else:
            process.send_signal(signum)

    def kill_tree(self, marker: str) -> None:
        """Kill what was started under this marker, and its children."""
        for pid, (process, its_marker) in list(self._started.items()):
            if its_marker != marker or process.poll() is not None:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in _children(psutil.Process(pid)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait(STOP_BOUND)

    def tidy(self, path: Path) -> None:
        """Remember a folder to be removed."""
        self.folders.append(Path(path))

    def container(self, label: str) -> None:
        """Remember containers to be removed."""
        self.labels.append(label)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
