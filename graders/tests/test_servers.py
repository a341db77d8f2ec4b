"""Servers of every backend, started for real."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from graders.harness import servers
from graders.harness.keeper import Keeper
from graders.harness.servers import base, containers, embedded, external
from graders.harness.servers.base import Server, ServerError, connect

ROOT = Path(__file__).resolve().parents[2]
BOTH = {"postgres", "redis"}


@pytest.fixture
def own_dir() -> Iterator[Path]:
    """A run folder of this test's own."""
    with tempfile.TemporaryDirectory(prefix="wl-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def listening(pid: int) -> set[str]:
    """The addresses that a process listens on."""
    found = psutil.Process(pid).net_connections(kind="inet")
    return {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}


# Embedded


def test_embedded_servers_start_side_by_side_on_loopback_and_stop(
    keeper: Keeper, own_dir: Path
) -> None:
    services = servers.start(BOTH, "embedded", keeper, own_dir)
    postgres, redis = services.postgres, services.redis
    assert postgres is not None
    assert redis is not None
    try:
        assert services.describe().keys() == BOTH
        assert services.describe()["postgres"].startswith("embedded (PostgreSQL 1")
        assert services.describe()["redis"].startswith("embedded (Valkey ")
        assert len(services.notes) == 1
        assert "embedded" in services.notes[0]
        assert services.healthy()
        assert listening(postgres.pid) == listening(redis.pid) == {"127.0.0.1"}
        with connect(postgres.admin_url) as admin:
            shown = {name: admin.execute(f"SHOW {name}").fetchone()[0]
                     for name in ("fsync", "autovacuum", "max_connections", "TimeZone")}
        assert shown == {"fsync": "off", "autovacuum": "off", "max_connections": "300",
                         "TimeZone": "UTC"}
        assert base.redis_info(redis.host, redis.port, "keyspace") == {}
    finally:
        services.stop()
    services.stop()
    assert not services.healthy()
    for server in (postgres, redis):
        assert not psutil.pid_exists(server.pid)
        assert list(server.folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing lists the segments")
def test_servers_of_a_killed_keeper_leave_nothing(own_dir: Path) -> None:
    """Not even the segment of shared memory that a killed PostgreSQL leaves."""
    keeper = Keeper.start()
    postgres = servers.start(BOTH, "embedded", keeper, own_dir).postgres
    pid_file = (postgres.folder / "data" / "postmaster.pid").read_text().split("\n")
    segment = pid_file[6].split()[1]

    def known() -> set[str]:
        rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return {row.split()[1] for row in rows}

    assert segment in known()
    os.kill(keeper.pid, signal.SIGKILL)
    keeper.close()
    assert not psutil.pid_exists(postgres.pid)
    assert not postgres.folder.exists()
    assert segment not in known()


def test_the_superuser_needs_its_password(keeper: Keeper, own_dir: Path) -> None:
    server = embedded.start_postgres(keeper, own_dir)
    try:
        with pytest.raises(psycopg.OperationalError, match="password"):
            connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")
        assert not list(server.folder.glob(".s.PGSQL.*[0-9]"))
        assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    finally:
        server.stop()


def test_a_port_that_somebody_has_taken_meanwhile_is_no_trouble(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for start in (embedded.start_postgres, embedded.start_redis):
            ports = [base.free_port(), taken.getsockname()[1]]
            monkeypatch.setattr(embedded, "free_port", ports.pop)
            server = start(keeper, own_dir)
            server.stop()
            assert server.port != taken.getsockname()[1]
            assert ports == []


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ("initdb: error: could not write: No space left on device", "no free space on the disk"),
        ("FATAL:  the stars are wrong", "the stars are wrong"),
        ("", "it wrote nothing"),
    ],
)
def test_a_server_that_does_not_start_is_one_sentence(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch, says: str, sentence: str
) -> None:
    bin_dir = own_dir / "bin"
    bin_dir.mkdir()
    own_dir.chmod(0o755)
    for name in ("postgres", "initdb"):
        (bin_dir / name).write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
        (bin_dir / name).chmod(0o755)
    monkeypatch.setattr(embedded, "_postgres_bin", lambda: bin_dir)
    monkeypatch.setattr(embedded, "_cache_entry", lambda _: own_dir / "cache")
    with pytest.raises(ServerError, match=sentence) as caught:
        servers.start({"postgres"}, "embedded", keeper, own_dir)
    assert "\n" not in str(caught.value)


def test_one_server_that_fails_stops_the_other(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    def fails(*_: object) -> Server:
        raise ServerError("No.")

    def works(*_: object) -> Server:
        return Server("redis", "127.0.0.1", 1, "", "Redis 0", "embedded",
                      stop=lambda: stopped.append(True))

    monkeypatch.setattr(embedded, "start_postgres", fails)
    monkeypatch.setattr(embedded, "start_redis", works)
    with pytest.raises(ServerError, match="No"):
        servers.start(BOTH, "embedded", keeper, own_dir)
    assert stopped == [True]


def test_the_cache_serves_two_runs_at_once_and_survives_damage(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = own_dir / "cache" / "cluster"
    monkeypatch.setattr(embedded, "_cache_entry", lambda _: entry)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: embedded.start_postgres(keeper, own_dir), range(2)))
    for server in both:
        assert server.healthy()
        server.stop()
    assert [each.name for each in entry.parent.iterdir()] == ["cluster"]

    (entry / "global" / "pg_control").write_bytes(b"rubbish")
    server = embedded.start_postgres(keeper, own_dir)
    assert server.healthy()
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_root_runs_binaries_that_only_root_can_reach(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = own_dir / "home" / "pginstall"
    shutil.copytree(embedded._postgres_bin().parent, hidden, symlinks=True,
                    ignore=shutil.ignore_patterns("include"))
    hidden.parent.chmod(0o700)
    monkeypatch.setattr(embedded, "_postgres_bin", lambda: hidden / "bin")
    server = embedded.start_postgres(keeper, own_dir)
    try:
        assert server.healthy()
        assert psutil.Process(server.pid).uids().effective != 0
        assert stat.S_IMODE(hidden.parent.stat().st_mode) == 0o700
    finally:
        server.stop()


KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from graders.harness import servers
from graders.harness.keeper import Keeper

keeper = Keeper.start()
run_dir = Path(tempfile.mkdtemp(prefix="wl-"))
keeper.tidy(run_dir)
services = servers.start({"postgres", "redis"}, sys.argv[1], keeper, run_dir)
print(keeper.pid, run_dir, services.postgres.folder, services.redis.folder, flush=True)
print(*[server.pid for server in services.all], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_grader_with(mode: str) -> tuple[list[str], list[str]]:
    """Start servers in a grader that is killed by SIGKILL; returns when its keeper has ended."""
    grader = subprocess.run([sys.executable, "-c", KILLED, mode], cwd=ROOT, timeout=120,
                            stdout=subprocess.PIPE, text=True, check=False)
    assert grader.returncode == -signal.SIGKILL
    first, second = grader.stdout.splitlines()
    keeper_pid, *folders = first.split()
    assert base.poll(lambda: not alive(int(keeper_pid)), 30)
    return folders, second.split()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_grader_killed_by_sigkill_leaves_no_embedded_server() -> None:
    folders, pids = kill_a_grader_with("embedded")
    assert not any(Path(folder).exists() for folder in folders)
    assert not any(alive(int(pid)) for pid in pids)


@pytest.mark.parametrize("spare", [True, False])
def test_data_is_in_memory_where_there_is_enough(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    monkeypatch.setattr(embedded, "MEMORY", str(own_dir))
    monkeypatch.setattr(embedded, "_memory_to_spare", lambda: spare)
    own_dir.chmod(0o711)
    server = embedded.start_postgres(keeper, own_dir)
    assert server.healthy()
    server.stop()
    assert (server.folder.parent == own_dir.resolve()) == spare


# External


@pytest.fixture
def postgres(keeper: Keeper, run_dir: Path) -> Iterator[Server]:
    """A PostgreSQL that is not the other tests'."""
    server = embedded.start_postgres(keeper, run_dir)
    yield server
    server.stop()


def test_external_postgres_needs_no_superuser(
    postgres: Server, keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(postgres.admin_url) as admin:
        admin.execute("CREATE ROLE teacher LOGIN CREATEDB CREATEROLE PASSWORD 'p@ss/word'")
        admin.execute("CREATE ROLE guest LOGIN CREATEDB PASSWORD 'x'")
    address = f"127.0.0.1:{postgres.port}"
    monkeypatch.setenv(external.POSTGRES_URL,
                       f"postgresql://teacher:p%40ss%2Fword@{address}/postgres?sslmode=require")
    services = servers.start({"postgres"}, "external", keeper, run_dir)
    assert services.describe()["postgres"].startswith("external (PostgreSQL ")
    assert services.healthy()
    assert not services.postgres.disposable
    services.stop()
    assert postgres.healthy()

    monkeypatch.setenv(external.POSTGRES_URL, f"postgresql://guest:x@{address}")
    with pytest.raises(ServerError, match="CREATEDB CREATEROLE"):
        servers.start({"postgres"}, "external", keeper, run_dir)

    monkeypatch.setenv(external.POSTGRES_URL, f"postgresql://guest:hunter2@{address}")
    with pytest.raises(ServerError, match="authentication failed") as caught:
        servers.start({"postgres"}, "external", keeper, run_dir)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "SERVICES=external needs WORKER_LABS_POSTGRES_URL"),
        ("mysql://root@localhost/x", "is not a URL of one server"),
        ("postgresql:///socket", "is not a URL of one server"),
        ("postgresql://a,b/x", "is not a URL of one server"),
        ("postgresql://localhost:notaport/x", "is not a URL of one server"),
        ("postgresql://u@127.0.0.1:1/x", "no connection to 127.0.0.1:1"),
    ],
)
def test_an_external_url_that_cannot_be_used_is_one_sentence(
    keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    monkeypatch.setenv(external.POSTGRES_URL, url)
    with pytest.raises(ServerError, match=sentence) as caught:
        servers.start({"postgres"}, "external", keeper, run_dir)
    assert "\n" not in str(caught.value)


def test_an_external_redis_must_be_empty_and_open(
    keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = embedded.start_redis(keeper, run_dir)
    try:
        monkeypatch.setenv(external.REDIS_URL, f"redis://127.0.0.1:{server.port}")
        services = servers.start({"redis"}, "external", keeper, run_dir)
        assert services.healthy()
        assert services.describe()["redis"].startswith("external (Valkey ")

        say(server, "SELECT 7", "SET somebodys data")
        with pytest.raises(ServerError, match="not empty"):
            servers.start({"redis"}, "external", keeper, run_dir)

        say(server, "CONFIG SET requirepass x")
        with pytest.raises(ServerError, match="wants a password"):
            servers.start({"redis"}, "external", keeper, run_dir)
    finally:
        server.stop()

    with pytest.raises(ServerError, match="no connection"):
        servers.start({"redis"}, "external", keeper, run_dir)
    monkeypatch.setenv(external.REDIS_URL, "redis://:secret@127.0.0.1")
    with pytest.raises(ServerError, match="no password"):
        servers.start({"redis"}, "external", keeper, run_dir)


def say(server: Server, *commands: str) -> None:
    """Send inline commands to a Redis; each must succeed."""
    with socket.create_connection((server.host, server.port), timeout=10) as link:
        answers = link.makefile("rb")
        for command in commands:
            link.sendall(command.encode() + b"\r\n")
            assert answers.readline() == b"+OK\r\n"


# Which backend


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a sign of Docker; the path is where its engine's socket would be."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(containers, "SOCKET", tmp_path / "docker.sock")
    return tmp_path / "docker.sock"


def test_without_docker_auto_is_embedded_and_says_why(
    no_docker: Path, keeper: Keeper, own_dir: Path
) -> None:
    services = servers.start({"redis"}, "auto", keeper, own_dir)
    services.stop()
    assert services.redis.backend == "embedded"
    assert "no Docker engine answers" in services.notes[0]


def test_without_docker_its_libraries_are_not_even_imported(no_docker: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graders.harness.servers import containers;"
        f"containers.SOCKET = Path({str(no_docker)!r}); assert not containers.engine_answers();"
        "assert not {'docker', 'testcontainers', 'redis'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_socket_of_a_dead_engine_is_no_engine(no_docker: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(no_docker))
    assert no_docker.exists()
    assert not containers.engine_answers()


def test_an_engine_that_never_answers_is_not_waited_for(
    no_docker: Path, keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as hangs:
        hangs.bind(str(no_docker))
        hangs.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{no_docker}")
        assert not containers.engine_answers(timeout=0.2)


def test_containers_without_an_engine_are_one_sentence(
    no_docker: Path, keeper: Keeper, own_dir: Path
) -> None:
    with pytest.raises(ServerError, match="SERVICES=embedded"):
        servers.start(BOTH, "containers", keeper, own_dir)
    with pytest.raises(ServerError, match="No Docker engine answers"):
        containers.pull_images()


def test_auto_falls_back_when_containers_do_not_start(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Server:
        raise ServerError("The engine is full.")

    monkeypatch.setattr(containers, "engine_answers", lambda timeout: True)
    monkeypatch.setattr(containers, "missing_images", lambda kinds: [])
    monkeypatch.setattr(containers, "start_redis", fails)
    services = servers.start({"redis"}, "auto", keeper, own_dir)
    services.stop()
    assert services.redis.backend == "embedded"
    assert "The engine is full" in services.notes[0]

    monkeypatch.setattr(containers, "missing_images", lambda kinds: ["redis:8"])
    services = servers.start({"redis"}, "auto", keeper, own_dir)
    services.stop()
    assert "make images" in services.notes[0]


# Containers


def labelled() -> list[dict]:
    """What the engine tells of the containers of all runs."""
    with containers._client() as client:
        return [each.attrs for each in
                client.containers.list(
                    all=True, filters={"label": containers.LABEL}, ignore_removed=True)]


@pytest.mark.usefixtures("engine")
def test_containers_listen_on_loopback_only_and_are_removed(keeper: Keeper, own_dir: Path) -> None:
    services = servers.start(BOTH, "auto", keeper, own_dir)
    try:
        assert services.postgres.backend == services.redis.backend == "containers"
        assert services.healthy()
        ours = [each for each in labelled() if own_dir.name in
                each["Config"]["Labels"][containers.LABEL]]
        published = {
            binding["HostIp"]
            for each in ours for bindings in each["NetworkSettings"]["Ports"].values()
            for binding in bindings or ()
        }
        assert len(ours) == 2
        assert published == {"127.0.0.1"}
        with connect(services.postgres.admin_url) as admin:
            assert admin.execute("SHOW fsync").fetchone() == ("off",)
            assert admin.execute("SHOW max_connections").fetchone() == ("300",)
        say(services.redis, f"SELECT {base.REDIS_DATABASES - 1}")
    finally:
        services.stop()
    left = {each["Config"]["Labels"][containers.LABEL] for each in labelled()}
    assert not any(own_dir.name in label for label in left)
    assert not services.healthy()


@pytest.mark.usefixtures("engine")
def test_an_image_that_is_not_here_is_not_fetched(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_LABS_REDIS_IMAGE", "worker-labs/there-is-none:1")
    with pytest.raises(ServerError, match="there-is-none:1 is not here; `make images`"):
        servers.start({"redis"}, "containers", keeper, own_dir)


@pytest.mark.usefixtures("engine")
def test_a_container_that_ends_while_it_starts_is_one_sentence(
    keeper: Keeper, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "REDIS_DATABASES", "many")
    with pytest.raises(ServerError, match="Redis's container does not start: it ended") as caught:
        servers.start({"redis"}, "containers", keeper, own_dir)
    assert "\n" not in str(caught.value)
    left = {each["Config"]["Labels"][containers.LABEL] for each in labelled()}
    assert not any(own_dir.name in label for label in left)


@pytest.mark.usefixtures("engine")
def test_a_grader_killed_by_sigkill_leaves_no_container() -> None:
    code = KILLED.replace("services.postgres.folder, services.redis.folder", "'-', '-'").replace(
        "server.pid", "server.port")
    grader = subprocess.run([sys.executable, "-c", code, "containers"], cwd=ROOT, timeout=300,
                            stdout=subprocess.PIPE, text=True, check=False)
    assert grader.returncode == -signal.SIGKILL
    keeper_pid, run_dir = grader.stdout.split()[:2]
    assert base.poll(lambda: not alive(int(keeper_pid)), 60)
    left = {each["Config"]["Labels"][containers.LABEL] for each in labelled()}
    assert not any(Path(run_dir).name in label for label in left)
