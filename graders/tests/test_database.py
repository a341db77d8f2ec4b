"""The databases of checks, and the watch on their tasks, on a real PostgreSQL."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from graders.harness import database as databases
from graders.harness import history as h
from graders.harness.database import Database, DatabaseFactory, Watch, watch
from graders.harness.keeper import Keeper
from graders.harness.loop import LoopThread
from graders.harness.servers import Server, ServerError, embedded
from graders.harness.servers.base import connect, poll

SCHEMA = (Path(__file__).resolve().parents[2] / "labs/lab03/schema.sql").read_text()
BOUND = 30.0


@pytest.fixture(scope="module")
def factory(server: Server) -> Iterator[DatabaseFactory]:
    factory = DatabaseFactory(server, SCHEMA, "tests", ahead=1)
    yield factory
    factory.close()


@pytest.fixture
def database(factory: DatabaseFactory) -> Iterator[Database]:
    database = factory.new()
    yield database
    database.drop()


@pytest.fixture
def worker(database: Database, server: Server) -> Iterator[psycopg.Connection]:
    """A connection as a worker's, in autocommit."""
    with psycopg.connect(
        database.worker_url(server.host, server.port), autocommit=True
    ) as connection:
        yield connection


@pytest.fixture
def watching(database: Database, loop: LoopThread, history: h.History) -> Iterator[Watch]:
    watching = watch(database, loop, history)
    yield watching
    watching.close()


def as_owner(server: Server) -> Server:
    """The same server as a role that is no superuser sees it, on a server that lives on."""
    name, password = f"teacher_{secrets.token_hex(4)}", "x"
    with connect(server.admin_url) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'")
    return dataclasses.replace(
        server, admin_url=server.url("postgres", name, password), backend="external"
    )


def named(server: Server, prefix: str) -> set[str]:
    """Databases and roles whose names begin so."""
    with connect(server.admin_url) as admin:
        rows = admin.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %(p)s)"
            " UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, %(p)s)",
            {"p": prefix},
        )
        return {row[0] for row in rows}


# Databases


def test_each_database_is_its_own(factory: DatabaseFactory, server: Server) -> None:
    one, two = factory.new(), factory.new()
    with connect(one.admin_url) as admin:
        admin.execute("INSERT INTO tasks (title) VALUES ('only here')")
    with psycopg.connect(two.worker_url(server.host, server.port)) as worker:
        assert worker.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
        assert worker.execute("SELECT current_user").fetchone() == (two.worker_user,)


def test_many_threads_get_databases_at_once(factory: DatabaseFactory) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: factory.new(), range(8)))
    assert len({each.name for each in made}) == 8
    for each in made:
        with connect(each.admin_url) as admin:
            assert admin.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
        each.drop()


@pytest.mark.parametrize("statement", [
    "INSERT INTO audit.changes (task) VALUES (gen_random_uuid())",
    "SELECT audit.note_change()",
    "DELETE FROM audit.changes",
    "ALTER TABLE tasks ADD extra int",
    "ALTER TABLE tasks DISABLE TRIGGER ALL",
    "DROP TABLE tasks",
    "TRUNCATE tasks",
    "CREATE TABLE public.mine (x int)",
    "CREATE SCHEMA mine",
    "SET session_replication_role = replica",
])
def test_the_worker_owns_nothing(worker: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        worker.execute(statement)


def test_the_worker_may_use_the_table(worker: psycopg.Connection) -> None:
    worker.execute("INSERT INTO tasks (title) VALUES ('x')")
    worker.execute("SELECT * FROM tasks FOR UPDATE SKIP LOCKED")
    worker.execute("UPDATE tasks SET status = 'processing'")
    worker.execute("DELETE FROM tasks")


def test_connections_without_end_are_the_workers_own_trouble(
    database: Database, server: Server
) -> None:
    url = database.worker_url(server.host, server.port)
    opened = []
    try:
        for _ in range(databases.CONNECTION_LIMIT):
            opened.append(psycopg.connect(url))
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(url)
        with connect(database.admin_url) as admin:
            assert admin.execute("SELECT 1").fetchone() == (1,)
    finally:
        for connection in opened:
            connection.close()


def test_a_database_is_dropped_whoever_is_still_connected(server: Server) -> None:
    owner = as_owner(server)
    factory = DatabaseFactory(owner, SCHEMA, "drop", ahead=0)
    database = factory.new()
    worker = psycopg.connect(database.worker_url(server.host, server.port))
    database.drop()
    assert poll(lambda: database.name not in named(server, "worker_labs_drop_"), BOUND)
    with pytest.raises(psycopg.OperationalError):
        worker.execute("SELECT 1")
    worker.close()
    factory.close()
    assert named(server, "worker_labs_drop_") == set()


def test_on_a_disposable_server_only_what_is_too_much_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "DROP_BEYOND", 1)
    factory = DatabaseFactory(server, SCHEMA, "few", ahead=0)
    try:
        first, second = factory.new(), factory.new()
        first.drop()
        second.drop()
        assert poll(lambda: first.name not in named(server, "worker_labs_few_"), BOUND)
        assert second.name in named(server, "worker_labs_few_")
    finally:
        factory.close()


def test_new_databases_do_not_wait_for_a_session_that_never_finishes_its_login(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL lets DROP DATABASE wait for it: a stopped worker, or a stalled connection."""
    monkeypatch.setattr(databases, "DROP_BEYOND", 0)
    factory = DatabaseFactory(server, SCHEMA, "login", ahead=0)
    startup = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
    try:
        with (
            socket.create_connection((server.host, server.port)) as silent,
            connect(server.admin_url) as admin,
        ):
            silent.sendall(struct.pack("!i", 4 + len(startup)) + startup)
            assert silent.recv(1) == b"R"  # the server has asked for the password
            first = factory.new()
            first.drop()
            assert poll(lambda: waits_for_a_session(admin, first.name), BOUND)
            assert factory.new().name != first.name
            assert waits_for_a_session(admin, first.name)
    finally:
        factory.close()


def waits_for_a_session(admin: psycopg.Connection, database: str) -> bool:
    """Whether a DROP of this database waits for the other sessions of the server."""
    return bool(admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ProcSignalBarrier' "
        "AND query LIKE 'DROP DATABASE%%' || %s || '%%'", (database,)
    ).fetchone()[0])  # fmt: skip


def test_what_a_killed_run_left_is_dropped_and_a_living_run_is_not(server: Server) -> None:
    owner = as_owner(server)
    living = DatabaseFactory(owner, SCHEMA, "living", ahead=0)
    dead = DatabaseFactory(owner, SCHEMA, "dead", ahead=0)
    living.new()
    dead.new()
    pid = dead._admin.info.backend_pid
    dead._admin.close()  # as its process had died
    with connect(owner.admin_url) as admin:
        assert poll(lambda: not admin.execute(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall(), 60)
    elsewhere = dataclasses.replace(owner, admin_url=owner.url("template1"))
    third = DatabaseFactory(elsewhere, SCHEMA, "third", ahead=0)
    try:
        assert named(server, "worker_labs_dead_") == set()
        assert len(named(server, "worker_labs_living_")) == 3  # a database, the template, a role
    finally:
        third.close()
        living.close()
        dead.close()
    assert named(server, "worker_labs_living_") | named(server, "worker_labs_third_") == set()


def test_a_schema_without_tasks_has_no_audit(server: Server) -> None:
    factory = DatabaseFactory(server, "", "bare", ahead=0)
    try:
        with connect(factory.new().admin_url) as admin:
            assert admin.execute("SELECT to_regnamespace('audit')").fetchone() == (None,)
    finally:
        factory.close()


def test_a_server_that_has_gone_is_a_server_error(
    keeper: Keeper, run_dir: Path, loop: LoopThread, history: h.History
) -> None:
    server = embedded.start_postgres(keeper, run_dir)
    factory = DatabaseFactory(server, SCHEMA, "gone", ahead=1)
    database = factory.new()
    watching = watch(database, loop, history)
    assert watching.sync(BOUND)
    assert poll(lambda: factory._ready, BOUND)
    server.stop()
    assert not watching.sync(BOUND)
    watching.close()
    factory.new()  # one was ready
    with pytest.raises(ServerError) as caught:
        factory.new()
    assert "\n" not in str(caught.value)
    with pytest.raises(ServerError):
        watch(database, loop, history)
    with pytest.raises(ServerError):
        DatabaseFactory(server, SCHEMA, "late")
    factory.close()


# Watching


def changes(history: h.History) -> list[tuple[str | None, str | None]]:
    return [(e.data["old"], e.data["new"]) for e in history.events(h.ROW_CHANGED)]


def test_every_committed_change_is_an_event_in_order(
    database: Database, worker: psycopg.Connection, watching: Watch, history: h.History
) -> None:
    with connect(database.admin_url) as admin:
        row = admin.execute("INSERT INTO tasks (title) VALUES ('x') RETURNING id").fetchone()
    task = str(row[0])
    history.add(h.TASK_ADDED, "grader", "adds T1", task=task, label="T1")
    with worker.transaction():
        worker.execute("UPDATE tasks SET status = 'processing', assigned_worker = 'w-1'")
        worker.execute("UPDATE tasks SET updated_at = now()")
    with worker.transaction(force_rollback=True):
        worker.execute("UPDATE tasks SET status = 'failed'")
    worker.execute("UPDATE tasks SET status = 'completed'")
    worker.execute("DELETE FROM tasks")
    assert watching.sync(BOUND)

    assert changes(history) == [
        (None, "pending"), ("pending", "processing"), ("processing", "processing"),
        ("processing", "completed"), ("completed", None),
    ]
    claim = history.events(h.ROW_CHANGED)[1]
    assert (claim.who, claim.text) == ("postgres", "T1 pending → processing, assigned to w-1")
    assert claim.data["task"] == task
    assert claim.data["worker"] == "w-1"
    assert claim.data["backend"] == worker.info.backend_pid
    with connect(database.admin_url) as admin:
        kept = admin.execute("SELECT old, new FROM audit.changes ORDER BY seq").fetchall()
    assert kept == changes(history)


def test_sync_waits_for_all_that_was_committed(
    worker: psycopg.Connection, watching: Watch, history: h.History
) -> None:
    worker.execute("INSERT INTO tasks (title) SELECT 'x' FROM generate_series(1, 2000)")
    worker.execute("UPDATE tasks SET status = 'processing'")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: watching.sync(BOUND), range(20)))
    assert len(changes(history)) == 4000


def test_nothing_a_worker_writes_breaks_the_watch(
    worker: psycopg.Connection, watching: Watch, history: h.History
) -> None:
    worker.execute("INSERT INTO tasks (title) VALUES ('x')")
    worker.execute("UPDATE tasks SET assigned_worker = repeat('\"w\\é', 30000)")
    for payload in ("", "no json", "[]", "{}", '{"task": 1, "old": null, "new": null}'):
        worker.execute("SELECT pg_notify(%s, %s)", (databases.CHANNEL, payload))
    worker.execute("UPDATE tasks SET status = 'processing'")
    assert watching.sync(BOUND)
    assert changes(history)[-1] == ("pending", "processing")
    assert (None, "pending") in changes(history)


def test_a_closed_watch_says_nothing_more(
    worker: psycopg.Connection, database: Database, loop: LoopThread, history: h.History
) -> None:
    before = set(os.listdir("/dev/fd"))
    watching = watch(database, loop, history)
    watching.close()
    watching.close()
    worker.execute("INSERT INTO tasks (title) VALUES ('x')")
    assert not watching.sync(BOUND)
    assert changes(history) == []
    assert len(os.listdir("/dev/fd")) <= len(before)
