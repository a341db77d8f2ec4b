"""One process of a submission: its start, its signals, its log and its end.

It runs in a session of its own, started by the keeper. What it prints is read on the loop as it
comes and goes into the history line by line; how it ended follows after its last line. What it may
use is capped, and going over a cap ends it with an event that says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal as signals
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graders.harness import history as h
from graders.harness.history import History
from graders.harness.keeper import Keeper, SpawnError, signal_name
from graders.harness.keeper_program import folder_bytes
from graders.harness.loglines import LineSplitter
from graders.harness.loop import LoopThread

MIB = 1024 * 1024

CHUNK = 8 * 1024  # bytes read at a time: a flood must not keep the loop from the proxies
HELD_PIPES = 0.5  # seconds that an ended process's log stays open for children that still hold it
KILL_TIME = 30.0  # seconds until killing is given up; only a process stuck in the kernel takes any
EXIT_TIME = 5.0  # seconds until the exit of a killed process is recorded; takes a few milliseconds
LOOK_EVERY = 0.001  # seconds between two looks at whether a signal was taken
BUSY_TIME = 0.5  # seconds that a process which never sleeps has for its signal handler
BLIND_TIME = 0.2  # the same where the system does not tell (no /proc)


@dataclass(frozen=True)
class Caps:
    """What one process and all it starts may use; far more than any worker needs."""

    output_bytes: int = 4 * MIB
    output_lines: int = 10_000
    memory_bytes: int = 512 * MIB  # resident, of all its processes together
    processes: int = 64
    disk_bytes: int = 256 * MIB  # in its TMPDIR and its working directory; also each file's limit


@dataclass(frozen=True)
class Exit:
    """How a process ended: a status, or the name of a signal.

    Both are None if the grader lost its keeper and cannot know.
    """

    code: int | None
    signal: str | None


@dataclass(frozen=True)
class LogLine:
    """A line that a process printed. `at` is in seconds since the history began."""

    at: float
    stream: str  # "stdout" or "stderr"
    text: str


class Process:
    """A running process of a submission. Made by `Process.start`; use from any check thread."""

    def __init__(self, keeper: Keeper, loop: LoopThread, history: History, name: str, caps: Caps):
        self.name = name
        self.marker = keeper.marker(name)
        self.pid = 0
        self.cap: str | None = None  # the cap that ended it: "output", "memory" …
        self._keeper = keeper
        self._loop = loop
        self._history = history
        self._caps = caps
        self._exit: Exit | None = None
        self._ended = threading.Event()
        self._lines: list[LogLine] = []
        self._last_signal = 0
        self._private: str | None = None  # its TMPDIR
        # From here on: touched on the loop only.
        self._open: dict[str, int] = {}  # stream -> its pipe's reading end
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._bytes = 0
        self._how: Exit | None = None  # how it ended, while its pipes are still being drained

    @classmethod
    def start(
        cls,
        keeper: Keeper,
        loop: LoopThread,
        history: History,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        caps: Caps | None = None,
    ) -> Process:
        """Start a program; returns when it has begun. Raises SpawnError with a sentence why not.

        `env` is the whole environment. Its TMPDIR is made if it is not there, and counts towards
        the cap on disk space, so it should be this process's own.
        """
        process = cls(keeper, loop, history, name, caps or Caps())
        process._start(argv, env, cwd)
        return process

    def _start(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        pipes: list[int] = []
        try:
            for _ in range(2):
                pipes.extend(os.pipe())
        except OSError as error:
            for fd in pipes:
                os.close(fd)
            raise SpawnError(f"The grader has no room for another process: {error}") from None
        out, out_end, err, err_end = pipes
        try:
            self.pid = self._keeper.spawn(
                argv, env=env, cwd=cwd, stdout=out_end, stderr=err_end,
                marker=self.marker, limits=self._limits(env, cwd),
            )  # fmt: skip
        except BaseException:
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(out_end)
            os.close(err_end)
        command = " ".join(argv)
        self._history.add(
            h.STARTED, self.name, f"started: {command}", pid=self.pid, command=command
        )
        # In this order, which the loop keeps: the log is being read before an exit is heard of.
        self._loop.call_soon(self._listen, {"stdout": out, "stderr": err})
        self._keeper.on_cap(self.marker, lambda *cap: self._loop.call_soon(self._over_cap, *cap))
        self._keeper.on_exit(self.pid, self._heard)

    def _heard(self, code: int | None, signal: str | None) -> None:
        how = Exit(code, signal)
        self._loop.call_soon(self._gone, how)
        if not self._loop.loop.is_running():  # the run is over: nobody reads logs any more
            self._exit = self._exit or how
            self._ended.set()

    def _limits(self, env: Mapping[str, str], cwd: Path) -> dict[str, object]:
        folders = [[str(cwd), folder_size(cwd)]]
        private = env.get("TMPDIR")
        if private:
            with contextlib.suppress(OSError):
                Path(private).mkdir(parents=True, exist_ok=True)
            self._private = private
            if not Path(private).is_relative_to(cwd):
                folders.append([private, 0])
        return {
            "memory_bytes": self._caps.memory_bytes,
            "processes": self._caps.processes,
            "disk_bytes": self._caps.disk_bytes,
            "folders": folders,
        }

    # What is known of it

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs or its last lines are still being read."""
        return self._exit

    @property
    def lines(self) -> list[LogLine]:
        """What it has printed so far, in the order in which it arrived."""
        return list(self._lines)

    def wait_exit(self, timeout: float) -> Exit | None:
        """Wait for its own end, not that of its children; None if it did not come in time."""
        self._ended.wait(timeout)
        return self._exit

    def living(self) -> list[int]:
        """The pids of all its processes that live, with those that it left behind."""
        return self._keeper.living(self.marker)

    # Signals

    def signal(self, signum: int, group: bool = False) -> bool:
        """Send a signal to it alone (or to its group); False if it had ended already."""
        name = signal_name(signum)
        self._last_signal = int(signum)
        # Before it is sent, so that whatever follows from it comes after it in the history.
        self._history.add(h.SIGNAL, self.name, name, signal=name)
        return self._keeper.signal(self.pid, signum, group)

    def terminate(self) -> bool:
        """SIGTERM to it alone, as Docker does."""
        return self.signal(signals.SIGTERM)

    def interrupt(self) -> bool:
        """SIGINT to its process group, as Ctrl-C does."""
        return self.signal(signals.SIGINT, group=True)

    def freeze(self) -> bool:
        """Stop it and its group (SIGSTOP) until `thaw`."""
        return self.signal(signals.SIGSTOP, group=True)

    def thaw(self) -> bool:
        """Let it and its group go on (SIGCONT)."""
        return self.signal(signals.SIGCONT, group=True)

    def wait_signal_taken(self, timeout: float) -> bool:
        """Wait until it has taken the last signal: its handler has run, or its exit is recorded.

        On Linux the kernel tells: the signal is not pending any more, and the main thread sleeps
        again (proc(5), /proc/PID/status). A process that never sleeps has half a second then.
        Elsewhere it is a short, bounded grace. Returns False if the signal is still pending after
        `timeout` seconds, as with a worker that blocks it.
        """
        deadline = time.monotonic() + timeout
        if not sys.platform.startswith("linux"):
            self._ended.wait(min(timeout, BLIND_TIME))
            return True
        busy_until = None
        while True:
            pending, state = signal_state(self.pid, self._last_signal)
            now = time.monotonic()
            if self._ended.is_set():
                return True
            if state in ("", "Z", "X"):
                return self._ended.wait(max(0.0, deadline - now))
            if not pending:
                busy_until = busy_until or now + BUSY_TIME
                # Twice: a supervisor may have handed it on while the first look went on.
                at_rest = state in "SDTt" and all(self._at_rest() for _ in range(2))
                if at_rest or now >= busy_until:
                    return True
            if now >= deadline:
                return not pending
            self._ended.wait(LOOK_EVERY)

    def _at_rest(self) -> bool:
        """Whether no process of it has the last signal pending, and all their threads sleep."""
        return all(
            not signal_state(pid, self._last_signal)[0]
            and all(signal_state(int(thread), self._last_signal)[1] in "SDTtZX"
                    for thread in threads_of(pid))
            for pid in self.living()
        )

    def kill(self) -> Exit | None:
        """SIGKILL to it and to all that it started; returns when they are gone.

        Safe to call at any time: what has ended before leaves no event.
        """
        if self._exit is None:
            self._history.add(h.SIGNAL, self.name, "SIGKILL", signal="SIGKILL")
        self._keeper.kill_tree(self.marker, KILL_TIME)
        return self.wait_exit(EXIT_TIME)

    def close(self) -> None:
        """End it and all that it started, and read no more. Never fails.

        To be called for every process, also one that has ended: its children may not have.
        """
        with contextlib.suppress(Exception):
            self.kill()
        self._loop.call_soon(self._hang_up)
        if self.cap == "files" and self._private:
            shutil.rmtree(self._private, ignore_errors=True)  # or the next ones find the disk full

    # On the loop

    def _listen(self, pipes: dict[str, int]) -> None:
        for stream, fd in pipes.items():
            os.set_blocking(fd, False)
            self._open[stream] = fd
            self._loop.loop.add_reader(fd, self._readable, stream)

    def _readable(self, stream: str) -> bool:
        """Read once. Returns whether there may be more at once."""
        try:
            data = os.read(self._open[stream], CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        splitter = self._splitters[stream]
        self._log(stream, splitter.feed(data) if data else splitter.finish())
        self._bytes += len(data)
        if not data:
            self._stop_reading(stream)
            if self._how is not None and not self._open:
                self._record_exit()
            return False
        if self.cap is None:
            if self._bytes > self._caps.output_bytes:
                self._flood(f"it printed more than {size(self._caps.output_bytes)}")
            elif len(self._lines) >= self._caps.output_lines:
                self._flood(f"it printed more than {self._caps.output_lines:,} lines")
        return self.cap is None

    def _log(self, stream: str, texts: list[str]) -> None:
        room = max(0, self._caps.output_lines - len(self._lines))
        for text in texts[:room]:
            event = self._history.add(h.LOG, self.name, text, stream=stream, line=text)
            self._lines.append(LogLine(event.at, stream, text))

    def _flood(self, words: str) -> None:
        self.cap = "output"
        self._history.add(h.CAP, self.name, words, cap="output")
        # The pipes stay open, unread: closing them would end it by SIGPIPE instead.
        for fd in self._open.values():
            self._loop.loop.remove_reader(fd)
        with contextlib.suppress(SpawnError):
            self._keeper.kill_tree(self.marker, wait=False)

    def _over_cap(self, cap: str, amount: int, limit: int) -> None:
        if self.cap is not None:
            return
        self.cap = "files" if cap == "disk" else cap
        words = {
            "memory": f"it used {size(amount)} of memory, more than {size(limit)}",
            "processes": f"it had {amount} processes at once, more than {limit}",
            "disk": f"its folders grew by {size(amount)}; {size(limit)} is the limit",
        }
        self._history.add(h.CAP, self.name, words[cap], cap=self.cap)

    def _gone(self, how: Exit) -> None:
        """The process has ended: read what it left in its pipes, then record it."""
        self._how = how
        for stream in list(self._open):
            while stream in self._open and self._readable(stream):
                pass
        if self._open and self.cap is None:
            # A child of it still holds them. Its own lines have been read.
            self._loop.loop.call_later(HELD_PIPES, self._record_exit)
        else:
            self._record_exit()

    def _record_exit(self) -> None:
        if self._exit is not None or self._how is None:
            return
        for stream in self._open:
            self._log(stream, self._splitters[stream].finish())
        if self.cap is not None:
            self._hang_up()
        how = self._how
        if how.signal == "SIGXFSZ" and self.cap is None:
            self.cap = "files"
            words = f"it wrote a file that reached the limit of {size(self._caps.disk_bytes)}"
            self._history.add(h.CAP, self.name, words, cap="files")
        if how.signal:
            words = f"ended by {how.signal}"
        elif how.code is None:
            words = "lost: the grader does not know how it ended"
        else:
            words = f"ended with exit status {how.code}"
        self._exit = how
        self._history.add(h.EXIT, self.name, words, code=how.code, signal=how.signal)
        self._ended.set()

    def _stop_reading(self, stream: str) -> None:
        fd = self._open.pop(stream)
        self._loop.loop.remove_reader(fd)
        os.close(fd)

    def _hang_up(self) -> None:
        for stream in list(self._open):
            self._stop_reading(stream)


def threads_of(pid: int) -> list[str]:
    """The ids of a process's threads, which /proc knows like processes; none if it is gone."""
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def signal_state(pid: int, signum: int) -> tuple[bool, str]:
    """Whether a signal is pending for a process, and its main thread's state ("" if it is gone)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
    except OSError:
        return False, ""
    waiting = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    return bool(waiting >> (signum - 1) & 1), fields.get("State", "").split()[0]


_sizes: dict[Path, int] = {}
_sizes_lock = threading.Lock()


def folder_size(folder: Path) -> int:
    """Bytes on disk below a folder when it was first asked for, which is before it grows."""
    with _sizes_lock:
        if folder not in _sizes:
            _sizes[folder] = folder_bytes(str(folder), 2.0)
        return _sizes[folder]


def size(count: int) -> str:
    """A number of bytes in words: 512 MiB."""
    if count >= MIB:
        return f"{count / MIB:.0f} MiB"
    return f"{count / 1024:.0f} KiB" if count >= 1024 else f"{count} bytes"
