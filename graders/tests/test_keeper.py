"""The keeper: starts what it is asked to start, and leaves nothing behind, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from graders.harness import keeper as keeper_module
from graders.harness.keeper import Keeper, KeeperLost, SpawnError

BOUND = 120.0  # seconds that only a failure takes
ROOT = Path(__file__).resolve().parents[2]
ENV = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
LINUX = sys.platform.startswith("linux")


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with Keeper.start() as keeper:
        yield keeper


@pytest.fixture(params=["native", "portable"])
def any_keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    """A keeper as on this system, and one that works as without /proc and subreapers."""
    with Keeper.start(portable=request.param == "portable") as keeper:
        yield keeper


class Run:
    """A program that the keeper has started, with what it prints."""

    def __init__(
        self, keeper: Keeper, argv: list[str], marker: str = "", **options: object
    ) -> None:
        self.keeper = keeper
        self.marker = marker or keeper.marker("test")
        self.how: tuple[int | None, str | None] = (None, None)
        self._ended = threading.Event()
        read, write = os.pipe()
        self._out = open(read, encoding="utf-8")  # noqa: SIM115
        given = {"env": ENV, "cwd": "/", "stderr": write, "limits": {}, **options}
        try:
            self.pid = keeper.spawn(argv, stdout=write, marker=self.marker, **given)
        finally:
            os.close(write)
        keeper.on_exit(self.pid, self._exited)

    def _exited(self, code: int | None, name: str | None) -> None:
        self.how = (code, name)
        self._ended.set()

    def line(self) -> str:
        return self._out.readline().rstrip("\n")

    def wait(self) -> tuple[int | None, str | None]:
        assert self._ended.wait(BOUND), "it did not end"
        return self.how

    def text(self) -> str:
        with self._out:
            return self._out.read()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(*pids: int) -> None:
    deadline = time.monotonic() + BOUND
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.005)


# Prints the pids of the escaped, one on a line, and then stays.
ESCAPES = {
    "setsid": "if os.fork() == 0: os.setsid(); stay()",
    "double fork": "if os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n  stay()",
    "ignores SIGTERM": "signal.signal(15, signal.SIG_IGN); signal.signal(2, signal.SIG_IGN)",
    "closed outputs": "if os.fork() == 0: os.setsid(); stay(close=True)",
    "stopped": "if os.fork() == 0: stay(stop=True)",
    "children of a thread": "threading.Thread(target=lambda: os.fork() or stay()).start()",
    "another program": (
        "if os.fork() == 0: os.setsid(); say(); os.execvp('sleep', ['sleep', '600'])"
    ),
}
PRELUDE = """
import os, signal, sys, threading, time
def say():
    os.write(1, b"%d\\n" % os.getpid())
def stay(close=False, stop=False):
    say()
    if close: os.closerange(0, 10)
    if stop: os.kill(os.getpid(), signal.SIGSTOP)
    while True: time.sleep(600)
"""


def escape(keeper: Keeper, code: str, count: int) -> tuple[Run, list[int]]:
    run = Run(keeper, python(f"{PRELUDE}\n{code}\nstay()"))
    return run, [int(run.line()) for _ in range(count)]


class TestStarting:
    def test_reports_status_and_output(self, any_keeper: Keeper) -> None:
        run = Run(any_keeper, ["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert run.wait() == (3, None)
        assert run.text() == "out\nerr\n"

    def test_reports_the_signal_that_ended_it(self, keeper: Keeper) -> None:
        run = Run(keeper, ["sh", "-c", "echo up; exec sleep 600"])
        assert run.line() == "up"
        assert keeper.signal(run.pid, signal.SIGTERM)
        assert run.wait() == (None, "SIGTERM")
        assert not keeper.signal(run.pid, signal.SIGTERM), "it has ended already"

    def test_an_exit_is_told_to_who_asks_late(self, keeper: Keeper) -> None:
        run = Run(keeper, ["sh", "-c", "exit 7"])
        run.wait()
        told: list[object] = []
        keeper.on_exit(run.pid, lambda *how: told.append(how))
        assert told == [(7, None)]

    def test_environment_is_what_was_given(self, keeper: Keeper) -> None:
        run = Run(keeper, ["env"], env={"PATH": ENV["PATH"], "A": "ä b"})
        run.wait()
        names = {line.partition("=")[0] for line in run.text().splitlines()}
        assert names == {"PATH", "A", "WORKER_LABS_MARKER"}

    @pytest.mark.skipif(not LINUX, reason="reads /proc")
    def test_begins_with_nothing_inherited(self, keeper: Keeper) -> None:
        """No ignored or blocked signals, no files but the three, no input, a session of its own."""
        told = "SigBlk|SigIgn|NSsid"
        run = Run(
            keeper, ["sh", "-c", f"grep -E '{told}' /proc/self/status; cat; ls /proc/self/fd"]
        )
        run.wait()
        *words, zero, one, two, own = run.text().split()
        status = dict(zip(words[::2], words[1::2], strict=True))
        # 32 and 33 are the C library's own: no program can reset them, none of ours ignores them.
        ignored = int(status.pop("SigIgn:"), 16) & ~(0b11 << 31)
        assert ignored == 0
        assert status == {"SigBlk:": "0" * 16, "NSsid:": str(run.pid)}
        assert [zero, one, two] == ["0", "1", "2"]
        assert own == "3", "what ls itself has open"

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["no-such-program-here"], "no program “no-such-program-here” on the PATH"),
            (["./missing"], "no program “./missing”"),
            (["./plain"], "“./plain” is not executable"),
            (["./folder"], "“./folder” is a folder"),
            (["./no-shebang"], "#! line"),
            (["./lost"], "“/no/such/interpreter”, which is not here"),
            (["./windows"], "CR LF"),
            (["a\0b"], "cannot be started"),
            ([], "empty"),
        ],
    )
    def test_says_why_it_cannot_start(
        self, keeper: Keeper, tmp_path: Path, argv: list[str], said: str
    ) -> None:
        (tmp_path / "plain").write_text("x")
        (tmp_path / "folder").mkdir()
        for name, text in (
            ("no-shebang", "\0\1\2"),
            ("lost", "#!/no/such/interpreter\n"),
            ("windows", "#!/bin/sh\r\n"),
        ):
            (tmp_path / name).write_text(text, newline="")
            (tmp_path / name).chmod(0o755)
        with pytest.raises(SpawnError) as caught:
            keeper.spawn(argv, env=ENV, cwd=tmp_path, marker=keeper.marker("x"))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert Run(keeper, ["true"]).wait() == (0, None), "the keeper serves on"

    def test_says_that_the_folder_is_missing(self, keeper: Keeper, tmp_path: Path) -> None:
        with pytest.raises(SpawnError, match="cannot be entered"):
            keeper.spawn(["true"], env=ENV, cwd=tmp_path / "no", marker=keeper.marker("x"))

    @pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root changes users")
    def test_runs_as_another_user(self, keeper: Keeper) -> None:
        run = Run(keeper, ["id", "-un"], user="nobody")
        run.wait()
        assert run.text() == "nobody\n"
        with pytest.raises(SpawnError, match="as the user no-such-user"):
            Run(keeper, ["id"], user="no-such-user")

    def test_serves_many_threads_and_large_environments(self, keeper: Keeper) -> None:
        large = {**ENV, **{f"VARIABLE_{n}": "x" * 10_000 for n in range(50)}}
        codes: list[int | None] = []

        def some() -> None:
            for code in range(5):
                run = Run(keeper, ["sh", "-c", f"exit {code}"], env=large)
                codes.append(run.wait()[0])

        threads = [threading.Thread(target=some) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert sorted(codes) == sorted([*range(5)] * 6)


class TestKilling:
    @pytest.mark.parametrize("way", ESCAPES)
    def test_finds_who_escaped(self, any_keeper: Keeper, way: str) -> None:
        count = 1 if way.startswith("ignores") else 2
        run, pids = escape(any_keeper, ESCAPES[way], count)
        assert set(pids) <= set(any_keeper.living(run.marker))
        any_keeper.kill_tree(run.marker)
        assert run.how == (None, "SIGKILL")
        assert any_keeper.living(run.marker) == []
        wait_gone(*pids)

    @pytest.mark.skipif(not LINUX, reason="without an environment only Linux tells whose it is")
    def test_finds_who_wiped_its_environment(self, keeper: Keeper) -> None:
        code = (
            "if os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n"
            "  say(); os.execve('/bin/sleep', ['sleep', '600'], {})"
        )
        run, pids = escape(keeper, code, 2)
        other, others = escape(keeper, code, 2)
        keeper.kill_tree(run.marker)
        wait_gone(*pids)
        assert all(alive(pid) for pid in others), "another's processes are left alone"
        keeper.kill_tree(other.marker)
        wait_gone(*others)

    def test_finds_who_outlived_its_parent(self, any_keeper: Keeper) -> None:
        run, pids = escape(any_keeper, "if os.fork(): os._exit(0)\nos.setsid()", 1)
        assert run.wait() == (0, None)
        assert any_keeper.living(run.marker) == pids
        any_keeper.kill_tree(run.marker)
        wait_gone(*pids)

    def test_leaves_others_alone(self, any_keeper: Keeper) -> None:
        one, _ = escape(any_keeper, "", 1)
        _, others = escape(any_keeper, ESCAPES["setsid"], 2)
        any_keeper.kill_tree(one.marker)
        assert all(alive(pid) for pid in others)

    def test_nothing_left_is_no_trouble(self, any_keeper: Keeper) -> None:
        any_keeper.kill_tree("never/there")
        run = Run(any_keeper, ["true"])
        run.wait()
        any_keeper.kill_tree(run.marker)

    def test_group_signals_reach_the_group(self, keeper: Keeper) -> None:
        run = Run(keeper, ["sh", "-c", "sleep 600 & echo $!; wait"])
        child = int(run.line())
        keeper.signal(run.pid, signal.SIGTERM, group=True)
        run.wait()
        wait_gone(child)


# A storm: everybody forks, but each fork takes a token, so that it ends even without a keeper.
STORM = """
import os, time
tokens, give = os.pipe()
os.write(give, b"x" * 400)
os.set_blocking(tokens, False)
while True:
    try:
        os.read(tokens, 1)
        {fork}
    except OSError:
        time.sleep(0.05)
"""
STORMS = {
    "forks": "os.fork()",
    "own sessions": "os.fork() or os.setsid()",
    "orphans": "if os.fork() == 0:\n            os.setsid()\n            os.fork() and os._exit(0)",
}


class TestCaps:
    def over(self, keeper: Keeper, argv: list[str], **options: object) -> tuple[str, int, int]:
        caps: list[tuple[str, int, int]] = []
        seen = threading.Event()
        marker = keeper.marker("greedy")
        keeper.on_cap(marker, lambda *cap: (caps.append(cap), seen.set()))
        run = Run(keeper, argv, marker, **options)
        assert seen.wait(BOUND), "nobody noticed"
        assert run.wait() == (None, "SIGKILL")
        keeper.kill_tree(marker)
        assert keeper.living(marker) == []
        return caps[0]

    @pytest.mark.parametrize("way", STORMS)
    def test_processes(self, any_keeper: Keeper, way: str) -> None:
        storm = python(STORM.format(fork=STORMS[way]))
        cap, amount, limit = self.over(any_keeper, storm, limits={"processes": 40})
        assert (cap, limit) == ("processes", 40)
        assert amount > 40

    def test_memory_of_all_together(self, any_keeper: Keeper) -> None:
        code = "import os, time; os.fork(); x = bytearray(40 << 20); time.sleep(600)"
        cap, amount, _ = self.over(any_keeper, python(code), limits={"memory_bytes": 70 << 20})
        assert cap == "memory"
        assert amount > 70 << 20

    def test_disk(self, any_keeper: Keeper, tmp_path: Path) -> None:
        (tmp_path / "before").write_bytes(b"x" * (9 << 20))
        code = (
            "import os, time\n"
            "for n in range(64): open(f'f{n}', 'wb').write(b'x' * (1 << 20)); time.sleep(0.01)\n"
            "time.sleep(600)"
        )
        limits = {"disk_bytes": 8 << 20, "folders": [[str(tmp_path), 9 << 20]]}
        cap, amount, _ = self.over(any_keeper, python(code), limits=limits, cwd=tmp_path)
        assert cap == "disk"
        assert amount >= 8 << 20

    def test_one_file_has_an_end_at_once(self, keeper: Keeper, tmp_path: Path) -> None:
        limits = {"disk_bytes": 1 << 20, "folders": [[str(tmp_path), 0]]}
        code = "head -c 9000000 /dev/zero > big"
        run = Run(keeper, ["sh", "-c", code], limits=limits, cwd=tmp_path)
        run.wait()
        assert (tmp_path / "big").stat().st_size <= 1 << 20

    def test_a_worker_of_many_processes_within_its_cap_goes_on(self, keeper: Keeper) -> None:
        code = (
            "import os, sys, time\n"
            "for _ in range(25):\n  if os.fork() == 0: time.sleep(600)\n"
            "print('up', flush=True)\ntime.sleep(1)\nprint('on', flush=True)\n"
        )
        run = Run(keeper, python(code), limits={"processes": 40})
        assert [run.line(), run.line()] == ["up", "on"]
        assert run.wait() == (0, None)


class TestTheEnd:
    def test_closing_ends_everything(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        (folder / "locked").mkdir(parents=True)
        (folder / "locked" / "file").write_text("x")
        (folder / "locked").chmod(0)
        (folder / "link").symlink_to(ROOT)
        keeper = Keeper.start()
        keeper.tidy(folder)
        pids = []
        for code in ESCAPES.values():
            pids += escape(keeper, code, 1)[1]
        run = Run(keeper, python(f"{PRELUDE}\nstay()"))
        keeper.close()
        assert run.wait() == (None, "SIGKILL")
        wait_gone(*pids, run.pid)
        assert not folder.exists()
        assert ROOT.exists()
        keeper.close()
        with pytest.raises(KeeperLost, match="over"):
            Run(keeper, ["true"])

    def test_servers_are_asked_to_end(self, tmp_path: Path) -> None:
        """PostgreSQL leaves shared memory behind when it is killed: it gets SIGQUIT first."""
        keeper = Keeper.start()
        note = tmp_path / "ended"
        code = (
            "import os, signal, time\n"
            f"signal.signal(3, lambda *_: (open({str(note)!r}, 'w').close(), os._exit(0)))\n"
            "os.write(1, b'up\\n')\nwhile True: time.sleep(600)"
        )
        run = Run(keeper, python(code), limits=None)
        stubborn = Run(
            keeper, python(f"{PRELUDE}\nsignal.signal(3, signal.SIG_IGN)\nstay()"), limits=None
        )
        assert run.line() == "up"
        assert stubborn.line()
        keeper.close()
        assert run.how == (0, None)
        assert stubborn.how == (None, "SIGKILL")
        assert note.exists()

    def test_signals_of_the_terminal_do_not_end_it(self, keeper: Keeper) -> None:
        assert Run(keeper, ["true"]).wait() == (0, None)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(keeper.pid, name)
        assert Run(keeper, ["true"]).wait() == (0, None)
        assert os.getsid(keeper.pid) == keeper.pid

    def test_a_killed_keeper_is_noticed_and_takes_its_processes_along(self) -> None:
        keeper = Keeper.start()
        run, pids = escape(keeper, ESCAPES["setsid"], 2)
        os.kill(keeper.pid, signal.SIGKILL)
        assert run.wait() == (None, None)
        wait_gone(*pids)
        assert not keeper.alive
        with pytest.raises(KeeperLost, match="lost its keeper"):
            Run(keeper, ["true"])
        keeper.close()

    @pytest.mark.skipif(not LINUX, reason="elsewhere there are no subreapers")
    def test_a_killed_keeper_leaves_nothing(self, tmp_path: Path) -> None:
        """Also of who has left its parents, its session and its environment."""
        folder = tmp_path / "wl-run"
        folder.mkdir()
        keeper = Keeper.start()
        keeper.tidy(folder)
        hide = "say(); os.execve('/bin/sleep', ['sleep', '600'], {})"
        run, pids = escape(keeper, ESCAPES["double fork"].replace("stay()", hide), 2)
        os.kill(keeper.pid, signal.SIGKILL)
        assert run.wait() == (None, None)
        wait_gone(*pids)
        assert not [pid for pid in pids if psutil.pid_exists(pid)]  # reaped, too
        keeper.close()
        assert not folder.exists()

    def test_what_a_killed_keeper_has_not_started_stays(self) -> None:
        ours = subprocess.Popen(["sleep", "600"], start_new_session=True)
        try:
            keeper = Keeper.start()
            os.kill(keeper.pid, signal.SIGKILL)
            keeper.close()
            assert ours.poll() is None
        finally:
            ours.kill()
            ours.wait()

    def test_a_stopped_keeper_is_told_to_go_on(
        self, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeper_module, "NUDGE_EVERY", 0.1)
        run, pids = escape(keeper, ESCAPES["setsid"], 2)
        os.kill(keeper.pid, signal.SIGSTOP)
        assert Run(keeper, ["true"]).wait() == (0, None)
        os.kill(keeper.pid, signal.SIGSTOP)
        keeper.close()
        assert run.how == (None, "SIGKILL")
        wait_gone(*pids)

    @pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
    @pytest.mark.parametrize("portable", [False, True])
    def test_nothing_is_left_of_a_killed_grader(
        self, tmp_path: Path, way: signal.Signals, portable: bool
    ) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        script = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from graders.harness.keeper import Keeper
from graders.tests.test_keeper import ESCAPES, PRELUDE, escape
keeper = Keeper.start(portable={portable})
keeper.tidy({str(folder)!r})
print(keeper.pid, flush=True)
for way, code in ESCAPES.items():
    for pid in escape(keeper, code, 1 if way.startswith("ignores") else 2)[1]:
        print(pid, flush=True)
print("ready", flush=True)
threading.Event().wait()
"""
        grader = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.callback(grader.wait)
            stack.callback(grader.kill)
            lines = []
            while not lines or lines[-1] != "ready":
                lines.append(grader.stdout.readline().strip())
                assert lines[-1], "the grader has ended by itself"
            pids = [int(line) for line in lines[:-1]]
            assert len(pids) == 2 * len(ESCAPES)
            os.killpg(grader.pid, way)
        wait_gone(*pids)
        assert not folder.exists()
        grader.stdout.close()

    @pytest.mark.parametrize("path", ["/", "/tmp", Path.home(), Path.cwd(), Path.cwd().parent])
    def test_refuses_to_remove_what_is_not_its_own(self, keeper: Keeper, path: Path) -> None:
        with pytest.raises(ValueError, match="may be removed"):
            keeper.tidy(path)

    def test_removes_containers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = tmp_path / "calls"
        docker = tmp_path / "docker"
        docker.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = ps ] && echo abc\nexit 0\n')
        docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        with Keeper.start() as keeper:
            keeper.container("worker-labs.run=x")
        assert calls.read_text().splitlines() == [
            "ps -aq --filter label=worker-labs.run=x",
            "rm -f -v abc",
            "images -aq --filter label=worker-labs.run=x",
        ]

    def test_a_callback_must_not_wait_for_the_keeper(self, keeper: Keeper) -> None:
        caught: list[BaseException] = []
        done = threading.Event()

        def wrong(*_: object) -> None:
            try:
                keeper.kill_tree("x")
            except RuntimeError as error:
                caught.append(error)
            done.set()

        marker = keeper.marker("x")
        pid = keeper.spawn(["sleep", "600"], env=ENV, cwd="/", marker=marker, limits={})
        keeper.on_exit(pid, wrong)
        keeper.kill_tree(marker)
        assert done.wait(BOUND)
        assert caught
