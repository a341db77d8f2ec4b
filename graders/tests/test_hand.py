"""What a student does by hand: servers that stay up, workers, tasks, the queue, psql."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from graders.harness import cli, settings
from graders.harness.hand import servers, tasks

BOUND = 60.0  # seconds; only a failure meets it

# Runs a command of the kit in another folder than this one.
IN_KIT = (
    "import sys; from pathlib import Path; from graders.harness import cli, settings; "
    "settings.ROOT = Path(sys.argv[1]); sys.exit(cli.main([sys.argv[2]]))"
)

WORKER = """
import os, signal, sys, time
stubborn = os.path.exists("stubborn")
def stop(signum, frame):
    print("told to stop by", signal.Signals(signum).name, flush=True)
    if not stubborn:
        sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
name = os.environ.get("WORKER_ID", "nobody")
print("I am", name, os.environ["DATABASE_URL"], os.getcwd(), flush=True)
print("poll", os.environ.get("WORKER_POLL_INTERVAL"), "secret", os.environ.get("SECRET"),
      file=sys.stderr, flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kit with lab 03 in a folder of its own; whatever is up there at the end is stopped."""
    root = tmp_path_factory.mktemp("a kit")
    (root / "labs" / "lab03").mkdir(parents=True)
    real = settings.lab("lab03")
    for name in ("lab.toml", "schema.sql"):
        (root / "labs" / "lab03" / name).write_text((real.folder / name).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "ROOT", root)
        patch.setenv("LAB", "3")
        patch.setenv("SERVICES", "embedded")
        for name in ("SRC", "N", "DATABASE_URL", "WORKER_POLL_INTERVAL", "CHECK", "RUNS"):
            patch.delenv(name, raising=False)
        try:
            yield root
        finally:
            servers.down({})


@pytest.fixture
def is_up(kit: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The servers are up; the value is DATABASE_URL."""
    assert cli.main(["up"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    return line.removeprefix("export DATABASE_URL=")


@pytest.fixture
def worker(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submission, in a folder with a space."""
    folder = tmp_path / "my worker"
    folder.mkdir()
    (folder / "Procfile").write_text("worker: python main.py\n")
    (folder / "main.py").write_text(WORKER)
    monkeypatch.setenv("SRC", str(folder))
    return folder


class Running:
    """`make run` (or another command) beside the test, and what it prints."""

    def __init__(self, kit: Path, command: str, terminal: bool = False, **env: str) -> None:
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self.read = ours
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_KIT, str(kit), command], cwd=Path(__file__).parents[2],
            env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=theirs,
            stderr=theirs, start_new_session=True,
        )
        os.close(theirs)

    def until(self, pattern: str, times: int = 1) -> str:
        """Read until the pattern was seen so many times; the whole output so far."""
        deadline = time.monotonic() + BOUND
        while len(re.findall(pattern, self.said)) < times:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.read], [], [], left)[0]
            data = b""
            with contextlib.suppress(OSError):  # a terminal whose other side has gone
                data = os.read(self.read, 65536) if ready else b""
            assert data, f"{pattern!r} was not seen {times} times in:\n{self.said}"
            self.said += data.decode()
        return self.said

    def end(self) -> int:
        """Its exit status, once it has ended."""
        try:
            return self.process.wait(BOUND)
        finally:
            self.process.kill()
            os.close(self.read)


def pids(said: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"\[worker-\d+ pid (\d+)\] I am", said)]


# Servers


def test_up_starts_servers_that_stay(is_up: str, capfd: pytest.CaptureFixture[str]) -> None:
    with psycopg.connect(is_up, autocommit=True) as link:
        assert link.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute("ALTER TABLE tasks ADD COLUMN mine int")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute("CREATE TABLE mine (id int)")
    assert cli.main(["up"]) == 0
    said = capfd.readouterr()
    assert said.out == f"export DATABASE_URL={is_up}\n"
    assert "up already" in said.err
    assert (settings.state_dir() / servers.STATE).stat().st_mode & 0o077 == 0


def test_down_leaves_nothing(is_up: str, capfd: pytest.CaptureFixture[str]) -> None:
    state = servers._read()
    pids_before = [each.pid for each in state.running]
    assert pids_before
    assert cli.main(["down"]) == 0
    assert "stopped" in capfd.readouterr().out
    assert not any(each.process() for each in state.running)
    assert not any(Path(folder).exists() for folder in state.folders)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(is_up)
    assert cli.main(["down"]) == 0
    assert "No servers are up." in capfd.readouterr().out
    assert cli.main(["tasks"]) == 2
    assert "make up LAB=03" in capfd.readouterr().err


def test_servers_that_died_are_started_anew(
    is_up: str, capfd: pytest.CaptureFixture[str]
) -> None:
    old = servers._read()
    for each in old.running:
        psutil.Process(each.pid).kill()
    psutil.wait_procs([p for p in (each.process() for each in old.running) if p], timeout=BOUND)
    assert cli.main(["up"]) == 0
    assert "have ended; starting new ones" in capfd.readouterr().err
    assert not any(Path(folder).exists() for folder in old.folders)


def test_a_pid_that_went_to_another_process_is_left_alone(kit: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        servers._end(servers.Up(running=[servers.Running(other.pid, 1.0)]), forget=False)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_down_removes_no_folder_that_is_not_a_servers(kit: Path, tmp_path: Path) -> None:
    servers._end(servers.Up(folders=[str(tmp_path)]), forget=False)
    assert tmp_path.is_dir()


def test_up_with_external_servers_is_refused(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICES", "external")
    assert cli.main(["up"]) == 2
    assert "set DATABASE_URL instead" in capfd.readouterr().err


# Tasks and the queue


def test_tasks_are_added_and_shown(
    is_up: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("N", "12")
    assert cli.main(["tasks"]) == 0
    assert capfd.readouterr().out == (
        "Added 12 tasks, 1 of type email and 1 whose work fails among them.\n"
    )
    with psycopg.connect(is_up, autocommit=True) as link:
        assert link.execute(
            "SELECT count(*), count(DISTINCT created_at), count(DISTINCT title) FROM tasks"
        ).fetchone() == (12, 12, 12)
        link.execute(
            "UPDATE tasks SET status = 'processing', title = repeat('日本', 99),"
            " assigned_worker = 'w\x1b[31m' || repeat('x', 99) WHERE type = 'email'"
        )
    assert cli.main(["queue"]) == 0
    said = capfd.readouterr().out
    assert said.startswith("pending 11   processing 1   completed 0   failed 0\n")
    assert "fail: charge an expired card" in said
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("number", [1, 2, 4, 5, 40])
def test_made_up_tasks_are_varied(number: int) -> None:
    made = tasks.made_up(number)
    assert len(set(made)) == len(made) == number
    assert sum(title.startswith("fail") for title, _ in made) == int(number >= 2)
    assert sum(kind == "email" for _, kind in made) == int(number >= 5)


def test_the_queue_is_refreshed_on_a_terminal_until_ctrl_c(is_up: str, kit: Path) -> None:
    running = Running(kit, "queue", terminal=True)
    running.until(r"\x1b\[H\x1b\[J", times=2)
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0


def test_psql_is_at_hand(is_up: str, kit: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_KIT, str(kit), "psql"], cwd=Path(__file__).parents[2],
        input="SELECT current_database(), 6 * 7;", capture_output=True, text=True, timeout=BOUND,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"lab03\s*\|\s*42", done.stdout)


# Workers


def test_run_shows_who_says_what_and_stops_softly(
    is_up: str, kit: Path, worker: Path
) -> None:
    running = Running(kit, "run", N="2", WORKER_POLL_INTERVAL="0.5", SECRET="x")
    said = running.until("poll 0.5 secret None", times=2)
    assert len(set(pids(said))) == 2
    for n in (1, 2):
        # Two `make run` side by side must not give two workers one name: the worker chooses.
        assert re.search(rf"\[worker-{n} pid \d+\] I am nobody ", said)
    assert f" {is_up} {worker}" in said
    running.process.send_signal(signal.SIGINT)
    said = running.until("ended with status 0", times=2)
    assert len(re.findall("told to stop by SIGINT", said)) == 2
    assert running.end() == 0


def test_run_goes_on_while_one_worker_lives(is_up: str, kit: Path, worker: Path) -> None:
    running = Running(kit, "run", N="2")
    first, second = pids(running.until("poll", times=2))
    os.kill(first, signal.SIGKILL)
    running.until(rf"pid {first}\] ended by SIGKILL")
    assert psutil.pid_exists(second)
    os.kill(second, signal.SIGTERM)
    said = running.until(rf"pid {second}\] ended with status 0")
    assert len(re.findall("told to stop by SIGTERM", said)) == 1
    assert running.end() == 0


def test_a_second_ctrl_c_kills(is_up: str, kit: Path, worker: Path) -> None:
    (worker / "stubborn").touch()
    running = Running(kit, "run", N="2")
    living = pids(running.until("poll", times=2))
    running.process.send_signal(signal.SIGINT)
    running.until("told to stop by SIGINT", times=2)
    running.process.send_signal(signal.SIGINT)
    running.until("ended by SIGKILL", times=2)
    assert running.end() == 0
    assert not any(map(psutil.pid_exists, living))


def test_nothing_outlives_a_run_that_was_killed(is_up: str, kit: Path, worker: Path) -> None:
    (worker / "stubborn").touch()
    running = Running(kit, "run", N="2")
    living = [psutil.Process(pid) for pid in pids(running.until("poll", times=2))]
    running.process.kill()
    assert running.end() == -signal.SIGKILL
    _, alive = psutil.wait_procs(living, timeout=BOUND)
    assert not alive


@pytest.mark.parametrize(
    ("procfile", "said"),
    [
        ("worker: no-such-program\n", "There is no program “no-such-program”"),
        ("worker python\n", "line 1"),
        ("api: python -m api\n", "has no line for “worker”"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    is_up: str, worker: Path, capfd: pytest.CaptureFixture[str], procfile: str, said: str
) -> None:
    (worker / "Procfile").write_text(procfile)
    assert cli.main(["run"]) == 2
    assert said in capfd.readouterr().err


def test_a_worker_that_crashes_is_seen(
    is_up: str, worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (worker / "main.py").write_text("print('last words', end='')\nraise SystemExit(3)\n")
    assert cli.main(["run"]) == 1
    said = capfd.readouterr().out
    assert "] last words\n" in said
    assert "] ended with status 3\n" in said
