"""The keeper: starts every process of a run, and leaves none behind.

All processes of a run (students' workers, embedded servers) are started by one small process of
their own, `keeper_program.py`, that outlives the grader: when the grader is gone, also by SIGKILL,
the keeper sees the end of its input, kills what is left, removes containers and folders, and ends.
This module is the grader's end of it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import secrets
import signal as signals
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import psutil

from graders.harness import keeper_program, leftovers
from graders.harness.leftovers import KEEPER_TIME, NUDGE_EVERY

ANSWER_TIME = 60.0  # seconds after which a keeper that does not answer is taken for lost

OnExit = Callable[[int | None, str | None], object]
OnCap = Callable[[str, int, int], object]


class SpawnError(OSError):
    """A process could not be started; the text says why, in one sentence for a student."""

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(number or 0, text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class KeeperLost(SpawnError):
    """The keeper has ended: the kit's own trouble, not the student's."""


class Keeper:
    """The grader's hold on the keeper process. May be used from any thread.

    Only the thread that reads the keeper's messages calls the callbacks; they must not wait.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.run_id = secrets.token_hex(4)  # what every marker of this run begins with
        self._process = process
        self._control = control
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._requests = itertools.count(1)
        self._markers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._exits: dict[int, _Exit] = {}
        self._caps: dict[str, OnCap] = {}
        # What it is to remove. Should it be killed, its owner does so.
        self._folders: list[str] = []
        self._containers: list[str] = []
        self._lost = ""  # why the keeper is gone
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="keeper-reader", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, *, portable: bool = False) -> Keeper:
        """Start a keeper. It gets ready in the background: the first call to it waits for that.

        `portable`: work as on a system without /proc and subreapers, for tests.
        """
        leftovers.adopt()
        ours, theirs = socket.socketpair()
        program = Path(keeper_program.__file__)
        command = [sys.executable, "-I", str(program), str(theirs.fileno())]
        if portable or not Path("/proc/self/stat").exists():
            # Isolated, it would not find it if it is on PYTHONPATH only.
            command.append(str(Path(psutil.__file__).parents[1]))
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            ours.close()
            raise KeeperLost(f"The grader cannot start its keeper process: {error}") from None
        finally:
            theirs.close()
        keeper = cls(process, ours)
        leftovers.note(keeper.run_id, keeper=leftovers.known(process.pid))
        return keeper

    @property
    def pid(self) -> int:
        """The keeper's own process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the keeper still serves."""
        return not self._lost and not self._closed

    def marker(self, name: str) -> str:
        """A new marker for a process: what it and all it starts are known by."""
        return f"{self.run_id}/{name}.{next(self._markers)}"

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | str,
        stdout: int | None = None,
        stderr: int | None = None,
        user: str | None = None,
        marker: str,
        limits: Mapping[str, Any] | None = None,
    ) -> int:
        """Start a program in a session of its own; returns its pid once the program has begun.

        `env` is its whole environment (the marker is added). `stdout` and `stderr` are file
        descriptors, None is /dev/null; the caller closes its own. `user`: run as this user (as root
        only). `limits`: "memory_bytes", "processes" and "disk_bytes", with "folders" as pairs of a
        path and the bytes that it held before; whoever goes over is killed, see `on_cap`. Without
        limits it is a server of the kit: at the end of the run it gets SIGQUIT and a moment.

        Raises SpawnError with a sentence for the student, KeeperLost if the keeper is gone.
        """
        if not argv:
            raise SpawnError("The command is empty.")
        fds = [fd for fd in (stdout, stderr) if fd is not None]
        answer = self._ask(
            {
                "op": "spawn",
                "argv": list(argv),
                "env": dict(env),
                "cwd": str(cwd),
                "user": user,
                "marker": marker,
                "limits": dict(limits) if limits is not None else None,
                "fds": [stdout is not None, stderr is not None],
            },
            fds,
        )
        if "pid" not in answer:
            raise SpawnError(_why(argv, env, cwd, user, answer), answer.get("errno"))
        return answer["pid"]

    def on_exit(self, pid: int, callback: OnExit) -> None:
        """Have `callback(code, signal name)` called when this process has ended.

        Exactly one of the two is None; both are if the keeper was lost. If it has ended already,
        the callback is called at once, on this thread.
        """
        with self._lock:
            state = self._exits.get(pid)
            if state is not None and not state.done:
                state.callbacks.append(callback)
                return
        callback(*(state.how if state else (None, None)))

    def on_cap(self, marker: str, callback: OnCap) -> None:
        """Have `callback(cap, amount, limit)` called when this marker goes over one of its limits.

        `cap` is "memory", "processes" or "disk". Its processes are being killed by then.
        """
        with self._lock:
            self._caps[marker] = callback

    def signal(self, pid: int, signum: int, group: bool = False) -> bool:
        """Send a signal to a process (or its group); False if it has ended already."""
        order = {"op": "signal", "pid": pid, "signal": int(signum), "group": group}
        return self._ask(order)["sent"]

    def kill_tree(self, marker: str, timeout: float = 30.0, *, wait: bool = True) -> None:
        """Kill every process of this marker; returns when none is left.

        Also those that have called setsid or lost their parent. `wait=False` only begins it.
        Raises TimeoutError if some are still there after `timeout` seconds.
        """
        if wait:
            if self._answer({"op": "kill", "marker": marker}, (), timeout) is None:
                raise TimeoutError(f"processes of {marker} are still there")
        else:
            self._send({"op": "kill", "marker": marker})

    def living(self, marker: str) -> list[int]:
        """The pids of this marker's living processes."""
        return self._ask({"op": "living", "marker": marker})["pids"]

    def tidy(self, path: Path | str) -> None:
        """Have this folder removed at the end of the run, whatever ends it."""
        whole = Path(path).absolute()
        if len(whole.parts) < 3 or whole in (Path.home(), Path.cwd(), *Path.cwd().parents):
            raise ValueError(f"{whole} is not a folder that may be removed")
        self._folders.append(str(whole))
        leftovers.note(self.run_id, folder=str(whole))
        self._send({"op": "tidy", "path": str(whole)})

    def container(self, label: str) -> None:
        """Have the containers with this label removed at the end of the run, whatever ends it."""
        self._containers.append(label)
        leftovers.note(self.run_id, container=label)
        self._send({"op": "container", "label": label})

    def close(self) -> None:
        """End every process, remove folders and containers; returns when that is done."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
        self._await()
        if not closed and self._process.returncode == 0:
            leftovers.note(self.run_id, closed=True)
        elif not closed and self._process.returncode is not None:
            self._end_all()
            leftovers.remove(self._folders, self._containers)
        if threading.current_thread() is not self._reader:
            self._reader.join(5)
        self._control.close()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Should it not do what it is there for

    def _await(self) -> None:
        """Wait for its end. One that is still at work after KEEPER_TIME goes on by itself."""
        leftovers.await_end(self._process, KEEPER_TIME, self._nudge)
        if self._process.poll() is None:
            with contextlib.suppress(psutil.Error, subprocess.TimeoutExpired):
                if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                    self._process.kill()  # what it runs stops it again and again
                    self._process.wait(NUDGE_EVERY)

    def _nudge(self) -> None:
        """Let it go on, should what it runs have stopped it."""
        with contextlib.suppress(OSError):
            self._process.send_signal(signals.SIGCONT)

    def _end_all(self) -> None:
        """End all that it has left, in its place."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(NUDGE_EVERY)  # only then are its orphans ours
        leftovers.end_orphans()
        leftovers.end_marked(self.run_id)  # where there are no subreapers

    # Messages

    def _send(self, order: dict[str, Any], fds: Sequence[int] = ()) -> None:
        text = json.dumps(order).encode()
        message = struct.pack("!I", len(text)) + text
        try:
            with self._sending:
                sent = socket.send_fds(self._control, [message], fds)
                if sent < len(message):
                    self._control.sendall(message[sent:])
        except OSError as error:
            raise self._gone(error) from None

    def _ask(self, order: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Send an order and wait for its answer. Raises KeeperLost."""
        answer = self._answer(order, fds, ANSWER_TIME)
        if answer is None:
            raise KeeperLost("The grader's keeper process does not answer any more.")
        return answer

    def _answer(
        self, order: dict[str, Any], fds: Sequence[int], timeout: float
    ) -> dict[str, Any] | None:
        """Send an order: its answer, or None if there is none after `timeout` seconds."""
        if threading.current_thread() is self._reader:
            raise RuntimeError("a callback of the keeper must not wait for the keeper")
        number = next(self._requests)
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._lost or self._closed:
                raise self._gone()
            self._waiting[number] = future
        try:
            self._send({**order, "id": number}, fds)
            until = time.monotonic() + timeout
            while (left := until - time.monotonic()) > 0:
                with contextlib.suppress(FutureTimeout):
                    return future.result(min(left, NUDGE_EVERY))
                self._nudge()
            return None
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def _gone(self, error: Exception | None = None) -> KeeperLost:
        if self._closed:
            return KeeperLost("The run is over: its keeper process has ended everything.")
        return KeeperLost(f"The grader has lost its keeper process. {self._lost or error or ''}")

    def _read(self) -> None:
        """The reader thread: hand out answers and events until the keeper has ended."""
        stream = self._control.makefile("rb")
        with contextlib.suppress(OSError):
            while len(head := stream.read(4)) == 4:
                (length,) = struct.unpack("!I", head)
                text = stream.read(length)
                if len(text) < length:
                    break
                self._take(json.loads(text))
        self._end()

    def _take(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event is None:
            with self._lock:
                if "pid" in message:
                    self._exits[message["pid"]] = _Exit()
                future = self._waiting.get(message["id"])
            if future is not None:
                future.set_result(message)
        elif event == "exit":
            code = message["code"]
            how = (code, None) if code >= 0 else (None, signal_name(-code))
            self._ended(message["pid"], how)
        elif event == "cap":
            with self._lock:
                callback = self._caps.pop(message["marker"], None)
            if callback is not None:
                callback(message["cap"], message["amount"], message["limit"])
        elif event == "broken":
            self._lost = message["text"]

    def _ended(self, pid: int, how: tuple[int | None, str | None]) -> None:
        with self._lock:
            state = self._exits.get(pid)
            if state is None or state.done:
                return
            state.done, state.how = True, how
        for callback in state.callbacks:
            callback(*how)

    def _end(self) -> None:
        """The keeper has ended: wake everybody who waits for it."""
        with self._lock:
            self._lost = self._lost or "It has ended by itself, or was killed."
            waiting = list(self._waiting.values())
            pids = list(self._exits)
            closed = self._closed
        if not closed:  # somebody killed the keeper: end what it can end no more
            self._end_all()
        for future in waiting:
            with contextlib.suppress(Exception):
                future.set_exception(self._gone())
        for pid in pids:
            self._ended(pid, (None, None))


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder that goes whatever ends this process."""
    with Keeper.start() as keeper:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        keeper.tidy(folder)
        yield folder


class _Exit:
    """How one process has ended, and who wants to know."""

    def __init__(self) -> None:
        self.done = False
        self.how: tuple[int | None, str | None] = (None, None)
        self.callbacks: list[OnExit] = []


def signal_name(number: int) -> str:
    """Its name, SIGTERM for 15; real-time signals have no names of their own."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _why(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | str,
    user: str | None,
    answer: Mapping[str, Any],
) -> str:
    """Why a program could not be started, in one sentence."""
    stage, number, program = answer.get("stage"), answer.get("errno"), argv[0]
    said = os.strerror(number) if number else answer.get("text", "unknown error")
    if stage == "cwd":
        return f"The folder {cwd} cannot be entered: {said}."
    if stage == "user":
        return f"“{program}” cannot be run as the user {user}: {said}."
    if stage != "program":
        return f"This machine cannot start another process now: {said}."
    if "/" not in program:
        found = _file_on_path(program, env, cwd)
        if found is None and number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return f"There is no program “{program}” on the PATH."
        path = found or Path(program)
    else:
        path = Path(cwd, program)
    if number in (errno.ENOENT, errno.ENOTDIR):
        if not os.path.exists(path):
            return f"There is no program “{program}”."
        return f"“{program}” cannot be started: {_interpreter_trouble(path)}."
    if number == errno.EACCES:
        if os.path.isdir(path):
            return f"“{program}” is a folder, not a program."
        if not os.access(path, os.X_OK):
            return f"“{program}” is not executable: chmod +x makes it so."
        return f"“{program}” may not be started: permission denied."
    if number == errno.ENOEXEC:
        return f"“{program}” is no program that the system can start: has it no #! line?"
    return f"“{program}” cannot be started: {said}."


def _file_on_path(program: str, env: Mapping[str, str], cwd: Path | str) -> Path | None:
    """The file of this name on the PATH, if there is one, executable or not."""
    for folder in env.get("PATH", os.defpath).split(":"):
        path = Path(cwd, folder or ".", program)
        if os.path.isfile(path):  # Path.is_file would raise where a folder may not be looked into
            return path
    return None


def _interpreter_trouble(path: Path) -> str:
    """What is wrong with the first line of a script whose interpreter was not found."""
    with contextlib.suppress(OSError), path.open("rb") as script:
        first = script.readline(200)
        if first.startswith(b"#!"):
            if first.endswith(b"\r\n"):
                return "its lines end in CR LF, as on Windows; they must end in LF"
            name = first[2:].decode(errors="replace").strip()
            return f"its first line asks for “{name}”, which is not here"
    return "the system does not find what it needs"
