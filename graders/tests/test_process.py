"""One student process: its log, its signals, its end, and what it may use."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graders.harness import history as h
from graders.harness.history import History
from graders.harness.keeper import Keeper, SpawnError
from graders.harness.loglines import LINE_LENGTH, LineSplitter, harmless
from graders.harness.loop import LoopThread
from graders.harness.process import Caps, Exit, Process

BOUND = 20.0  # seconds that only a failure takes
KILLED = Exit(None, "SIGKILL")

# `up()` says that the process is ready; a print might be interrupted by a handler that prints.
PRELUDE = """
import os, signal, sys, threading, time
def say(text):
    os.write(1, text.encode() + b"\\n")
def sleep():
    while True: time.sleep(600)
"""

Start = Callable[..., Process]


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    with Keeper.start() as keeper:
        yield keeper


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop
        assert loop.errors == []


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def start(keeper: Keeper, loop: LoopThread, history: History, tmp_path: Path) -> Iterator[Start]:
    """Start Python code (or a command) as `worker-1`."""
    started = []

    def start(what: str | list[str], caps: Caps | None = None, until: str = "") -> Process:
        argv = [sys.executable, "-c", PRELUDE + what] if isinstance(what, str) else what
        env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp")}
        process = Process.start(keeper, loop, history, "worker-1", argv, env, tmp_path, caps)
        started.append(process)
        if until:
            assert history.wait(lambda e: e.kind == h.LOG and e.text == until, BOUND)
        return process

    yield start
    for process in started:
        process.close()
        assert process.exit is not None
        assert process.living() == []


def texts(process: Process, stream: str | None = None) -> list[str]:
    return [line.text for line in process.lines if stream in (None, line.stream)]


class TestLog:
    def test_lines_and_exit_are_events_in_order(self, start: Start, history: History) -> None:
        process = start(["sh", "-c", "echo one; echo two; printf three; exit 4"])
        assert process.wait_exit(BOUND) == Exit(4, None)
        events = history.events()
        assert [e.kind for e in events] == [h.STARTED, h.LOG, h.LOG, h.LOG, h.EXIT]
        assert [e.text for e in events[1:]] == ["one", "two", "three", "ended with exit status 4"]
        assert {e.who for e in events} == {"worker-1"}
        assert events[0].data["pid"] == process.pid
        assert dict(events[-1].data) == {"code": 4, "signal": None}
        assert [line.at for line in process.lines] == [e.at for e in events[1:4]]

    def test_two_streams(self, start: Start) -> None:
        process = start(["sh", "-c", "echo out; echo err >&2"])
        process.wait_exit(BOUND)
        assert texts(process, "stdout") == ["out"]
        assert texts(process, "stderr") == ["err"]

    def test_what_is_not_flushed_is_not_there(self, start: Start) -> None:
        process = start("print('lost'); say('up'); sleep()", until="up")
        process.kill()
        assert texts(process) == ["up"]

    def test_much_output_before_the_end_is_all_there(self, start: Start) -> None:
        process = start("print('\\n'.join(str(n) for n in range(9000)))")
        process.wait_exit(BOUND)
        assert texts(process) == [str(n) for n in range(9000)]

    def test_binary_is_shown_harmlessly(self, start: Start) -> None:
        process = start("os.write(1, bytes(range(256)) * 40)")
        assert process.wait_exit(BOUND) == Exit(0, None)
        assert all(text.isprintable() for text in texts(process))

    @pytest.mark.parametrize(
        ("raw", "shown"),
        [
            (b"plain", "plain"),
            ("größe ✓ 好".encode(), "größe ✓ 好"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"a\x00b\x07", "a\\x00b\\x07"),
            (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
            (b"\x1b[2J\x1b[H", ""),
            (b"half \x1b[", "half \\x1b["),
            (b"a\tb\r", "a    b"),
            (b"50%\r100%", "50%\\x0d100%"),
            ("a\u202eb\u2028c\u0085".encode(), "a\\u202eb\\u2028c\\x85"),
        ],
    )
    def test_harmless(self, raw: bytes, shown: str) -> None:
        assert harmless(raw) == shown

    def test_lines_come_out_whole_however_they_are_cut(self) -> None:
        data = "ä\nbb\n\nccc\n…".encode()
        for size in range(1, len(data) + 1):
            splitter = LineSplitter()
            lines = []
            for at in range(0, len(data), size):
                lines += splitter.feed(data[at : at + size])
            assert lines + splitter.finish() == ["ä", "bb", "", "ccc", "…"]
            assert splitter.finish() == []

    def test_long_lines_are_cut(self) -> None:
        splitter = LineSplitter()
        for _ in range(100):
            assert splitter.feed(b"x" * 1000) == []
        assert splitter.feed(b"\nnext\n") == ["x" * LINE_LENGTH + " … (cut)", "next"]


class TestEnd:
    def test_says_why_it_cannot_start(self, start: Start, history: History) -> None:
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(SpawnError, match="no program “pyhton”"):
            start(["pyhton", "-m", "worker"])
        assert history.events() == []
        assert len(os.listdir("/dev/fd")) <= before

    def test_ends_at_once(self, start: Start) -> None:
        for _ in range(20):
            assert start(["true"]).wait_exit(BOUND) == Exit(0, None)

    def test_a_child_that_holds_the_log_does_not_hold_up_the_exit(
        self, start: Start, history: History
    ) -> None:
        process = start(
            "if os.fork() == 0:\n  os.setsid()\n  os.write(1, b'no newline')\n  sleep()\n"
            "say('last words')\nos._exit(5)"
        )
        assert process.wait_exit(BOUND) == Exit(5, None)
        assert "last words" in " ".join(texts(process))
        assert len(process.living()) == 1
        process.kill()
        assert process.living() == []
        assert len(history.events(h.EXIT)) == 1
        assert history.events(h.SIGNAL) == [], "it had ended by itself"

    def test_outlives_its_closed_outputs(self, start: Start, tmp_path: Path) -> None:
        start_file = tmp_path / "go"
        process = start(
            "os.close(1); os.close(2)\n"
            f"while not os.path.exists({str(start_file)!r}): time.sleep(0.01)\n"
            "os._exit(6)"
        )
        assert process.wait_exit(0.1) is None
        start_file.touch()
        assert process.wait_exit(BOUND) == Exit(6, None)

    def test_kill_takes_the_whole_tree(self, start: Start, history: History) -> None:
        process = start(
            "signal.signal(15, signal.SIG_IGN)\n"
            "if os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n"
            "  say('escaped')\n  sleep()\nsleep()",
            until="escaped",
        )
        process.terminate()
        assert process.wait_signal_taken(BOUND)
        assert process.exit is None
        assert process.kill() == KILLED
        assert process.living() == []
        names = [e.data["signal"] for e in history.events(h.SIGNAL)]
        assert names == ["SIGTERM", "SIGKILL"]
        assert process.kill() == KILLED, "may be called again"
        assert len(history.events(h.SIGNAL)) == 2

    def test_a_lost_keeper_is_an_exit_of_unknown_kind(
        self, loop: LoopThread, history: History, tmp_path: Path
    ) -> None:
        with Keeper.start() as keeper:
            env = {"PATH": os.environ["PATH"]}
            argv = ["sleep", "600"]
            process = Process.start(keeper, loop, history, "worker-1", argv, env, tmp_path)
            os.kill(keeper.pid, signal.SIGKILL)
            assert process.wait_exit(BOUND) == Exit(None, None)
            process.close()

    def test_the_end_of_the_run_wakes_who_waits(self, keeper: Keeper, tmp_path: Path) -> None:
        loop = LoopThread()
        env = {"PATH": os.environ["PATH"]}
        argv = ["sleep", "600"]
        process = Process.start(keeper, loop, History(), "worker-1", argv, env, tmp_path)
        loop.stop()
        assert process.kill() == KILLED


class TestSignals:
    HANDLER = "signal.signal(15, lambda *_: say('term')); signal.signal(2, lambda *_: say('int'))\n"

    def test_terminate_is_taken_before_it_is_judged(self, start: Start, history: History) -> None:
        process = start(self.HANDLER + "say('up'); sleep()", until="up")
        process.terminate()
        assert process.wait_signal_taken(BOUND)
        assert process.exit is None
        assert history.wait(lambda e: e.text == "term", BOUND)

    def test_terminate_of_one_without_a_handler_is_an_exit(self, start: Start) -> None:
        process = start("say('up'); sleep()", until="up")
        process.terminate()
        assert process.wait_signal_taken(BOUND)
        assert process.exit == Exit(None, "SIGTERM")
        assert not process.terminate()
        assert process.wait_signal_taken(BOUND)

    def test_wait_for_an_event_ends_at_the_signal(self, start: Start) -> None:
        process = start(
            "stop = threading.Event()\nsignal.signal(15, lambda *_: stop.set())\n"
            "say('up'); stop.wait(600); os._exit(0)",
            until="up",
        )
        process.terminate()
        assert process.wait_exit(BOUND) == Exit(0, None)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
    def test_a_blocked_signal_is_not_taken(self, start: Start) -> None:
        process = start("signal.pthread_sigmask(0, [15]); say('up'); sleep()", until="up")
        process.terminate()
        assert not process.wait_signal_taken(0.1)

    def test_a_busy_process_is_not_waited_for_long(self, start: Start) -> None:
        process = start(self.HANDLER + "say('up')\nwhile True: pass", until="up")
        process.terminate()
        assert process.wait_signal_taken(BOUND)
        assert process.exit is None

    def test_sigterm_is_for_it_alone_and_sigint_for_its_group(
        self, start: Start, history: History
    ) -> None:
        process = start(
            self.HANDLER + "if os.fork() == 0:\n  say('child'); sleep()\nsay('up'); sleep()",
            until="child",
        )
        assert history.wait(lambda e: e.text == "up", BOUND)
        process.interrupt()
        both = lambda events: len([e for e in events if e.text == "int"]) == 2  # noqa: E731
        assert history.wait_until(both, BOUND)
        process.terminate()
        assert history.wait(lambda e: e.text == "term", BOUND)
        process.interrupt()
        four = lambda events: len([e for e in events if e.text == "int"]) == 4  # noqa: E731
        assert history.wait_until(four, BOUND)
        assert texts(process).count("term") == 1

    def test_frozen_and_thawed(self, start: Start, history: History) -> None:
        process = start("say('up')\nfor _ in sys.stdin: pass\nsay('on'); sleep()", until="up")
        process.freeze()
        process.thaw()
        process.terminate()
        assert process.wait_exit(BOUND) == Exit(None, "SIGTERM")
        names = [e.text for e in history.events(h.SIGNAL)]
        assert names == ["SIGSTOP", "SIGCONT", "SIGTERM"]


class TestCaps:
    def over(self, process: Process, history: History) -> str:
        """Waits for its end; the text of its one CAP event, which comes before its EXIT."""
        assert process.wait_exit(BOUND) is not None
        (cap,) = history.events(h.CAP)
        (end,) = history.events(h.EXIT)
        assert cap.n < end.n
        assert cap.data["cap"] == process.cap
        process.kill()
        assert process.living() == []
        return cap.text

    @pytest.mark.parametrize(
        "code",
        [
            "while True: os.write(1, b'x' * 65536)",
            "while True: os.write(2, os.urandom(65536))",
            "os.fork()\nwhile True: os.write(1, b'x' * 65536)",
        ],
    )
    def test_output(self, start: Start, history: History, code: str) -> None:
        process = start(code, Caps(output_bytes=1 << 20))
        assert self.over(process, history) == "it printed more than 1 MiB"
        assert process.exit == KILLED

    def test_output_in_short_lines(self, start: Start, history: History) -> None:
        process = start(["yes"], Caps(output_lines=2000))
        assert self.over(process, history) == "it printed more than 2,000 lines"
        assert len(process.lines) == 2000

    def test_memory(self, start: Start, history: History) -> None:
        process = start("x = bytearray(90 << 20); sleep()", Caps(memory_bytes=64 << 20))
        assert "more than 64 MiB" in self.over(process, history)
        assert process.exit == KILLED

    def test_processes(self, start: Start, history: History) -> None:
        process = start("for _ in range(40):\n  if os.fork() == 0: sleep()\nsleep()",
                        Caps(processes=20))  # fmt: skip
        assert "more than 20" in self.over(process, history)

    @pytest.mark.parametrize("folder", ["os.environ['TMPDIR']", "'.'"])
    def test_files(self, start: Start, history: History, tmp_path: Path, folder: str) -> None:
        process = start(
            f"os.chdir({folder})\n"
            "for n in range(99): open(f'f{n}', 'wb').write(bytes(1 << 20))\n"
            "sleep()",
            Caps(disk_bytes=8 << 20),
        )
        assert "8 MiB is the limit" in self.over(process, history)
        assert process.cap == "files"
        process.close()
        assert not (tmp_path / "tmp").exists(), "its temporary files are removed"

    def test_one_endless_file(self, start: Start, history: History) -> None:
        process = start(
            "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
            "with open('big', 'wb') as f:\n  while True: f.write(bytes(1 << 20))",
            Caps(disk_bytes=4 << 20),
        )
        assert "limit" in self.over(process, history)

    def test_what_is_within_the_caps_is_left_alone(self, start: Start, history: History) -> None:
        process = start(
            "x = bytearray(20 << 20)\n"
            "for _ in range(5):\n  if os.fork() == 0: time.sleep(1); os._exit(0)\n"
            "open('f', 'wb').write(bytes(1 << 20))\n"
            "for n in range(1000): print(n)\ntime.sleep(1)"
        )
        assert process.wait_exit(BOUND) == Exit(0, None)
        assert history.events(h.CAP) == []


def test_many_side_by_side(start: Start, history: History) -> None:
    processes = [start(["sh", "-c", f"echo {n}; exit {n}"]) for n in range(30)]
    for n, process in enumerate(processes):
        assert process.wait_exit(BOUND) == Exit(n, None)
        assert texts(process) == [str(n)]


def test_a_flood_does_not_keep_the_loop_from_its_work(start: Start, loop: LoopThread) -> None:
    start(["yes"])
    longest = 0.0
    for _ in range(20):
        before = time.monotonic()
        loop.call(lambda: None)
        longest = max(longest, time.monotonic() - before)
    assert longest < BOUND
