"""The wire to PostgreSQL, on a real server, with the clients that students use."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg_pool
import pytest

from graders.harness import history as h
from graders.harness import sql
from graders.harness.history import History
from graders.harness.loop import LoopThread
from graders.harness.servers.embedded import psql_path
from graders.harness.steps import nameable
from graders.harness.wire import Cut, Drop, Gate, Step
from graders.harness.wire_postgres import PostgresWire

BOUND = 20.0  # seconds; met only when something is broken

_tables = itertools.count(1)


class Proxied:
    """A wire before the server, a table of its own, and direct access past the wire."""

    def __init__(self, loop: LoopThread, history: History, server: Any) -> None:
        self.history = history
        self.loop = loop
        self.server = server
        self.wire = PostgresWire(loop, history, "worker-1", (server.host, server.port))
        self.port = self.wire.start()
        self.dsn = self.with_port(self.port)
        self.admin = psycopg.connect(server.dsn, autocommit=True)
        self.table = f"wire_{os.getpid()}_{next(_tables)}"
        self.admin.execute(f"CREATE TABLE {self.table} (n int, what text)")

    def with_port(self, port: int) -> str:
        parts = urlsplit(self.server.dsn)
        place = parts.netloc.replace(f":{self.server.port}", f":{port}")
        return parts._replace(netloc=place).geturl()

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        options.setdefault("autocommit", True)
        return psycopg.connect(self.dsn, **options)

    def count(self) -> int:
        row = self.admin.execute(f"SELECT count(*) FROM {self.table}").fetchone()
        assert row is not None
        return int(row[0])

    def steps(self, *kinds: str, event: str = h.STEP_ARRIVED) -> list[Step]:
        steps = [e.data["step"] for e in self.history.events(event)]
        return [s for s in steps if not kinds or s.kind in kinds]

    def words(self, *kinds: str) -> list[str]:
        return [s.words.replace(self.table, "t") for s in self.steps(*kinds)]

    def close(self) -> None:
        self.wire.close()
        self.admin.execute(f"DROP TABLE IF EXISTS {self.table}")
        self.admin.close()


@pytest.fixture
def proxied(loop: LoopThread, history: History, postgres_server: Any) -> Iterator[Proxied]:
    proxied = Proxied(loop, history, postgres_server)
    yield proxied
    proxied.close()


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in a thread beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


# Words -----------------------------------------------------------------------------------------


def test_statements_are_split_and_folded_outside_of_quotes_only() -> None:
    text = "SELECT 'a;  b' -- why; not\n  , $$;$$ /* ; */ FROM  \"x;y\" ; ;\n "
    text += "UPDATE t SET a = E'\\';'"
    assert sql.statements(text) == (
        "SELECT 'a;  b' , $$;$$ FROM \"x;y\"", "UPDATE t SET a = E'\\';'")
    assert sql.statements(" ; -- nothing\n") == ()
    assert sql.statements("SELECT $1, a$b, $tag$ ; $$ ; $tag$") == (
        "SELECT $1, a$b, $tag$ ; $$ ; $tag$",)
    assert sql.statements("SELECT 'never ended ; ") == ("SELECT 'never ended ;",)
    assert sql.statements("SELECT date'1;' , value$$;") == ("SELECT date'1;' , value$$",)
    assert len(sql.one_line("SELECT '" + "x" * 1_000_000)) <= sql.LIMIT + 2
    assert sql.one_line("SELECT\n\t1;") == "SELECT 1"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("SET a = 'processing', b = 'x1' WHERE c = 'pending'",
         "SET a = 'processing', b = '?' WHERE c = 'pending'"),
        ("SET a = 'processing' WHERE n = 7 AND c = 'pending'",
         "SET a = 'processing' WHERE n = 7 AND c = 'pending'"),
        ("LIMIT 1 OFFSET 30 -- 'a'", "LIMIT 1 OFFSET ? -- 'a'"),
    ],
)
def test_a_name_keeps_words_and_drops_numbers(words: str, name: str) -> None:
    assert nameable(words) == name


def test_a_transaction_in_words(proxied: Proxied) -> None:
    with proxied.connect(autocommit=False) as connection:
        connection.execute(f"INSERT INTO {proxied.table}\n  VALUES (%s, %s)", (7, "seven"))
        connection.commit()
        connection.execute(f"SELECT n FROM {proxied.table} WHERE n = %s", (7,))
    assert proxied.wire.wait_closed(BOUND)
    insert, select = "INSERT INTO t VALUES ($1, $2)", "SELECT n FROM t WHERE n = $1"
    assert proxied.words() == [
        "connect", "BEGIN", insert, "COMMIT", "BEGIN", select, "COMMIT", "close"]
    names = [s.name.replace(proxied.table, "t") for s in proxied.steps()]
    assert names == ["connect", "BEGIN", f"BEGIN; {insert}", f"BEGIN; {insert}; COMMIT",
                     "BEGIN", f"BEGIN; {select}", f"BEGIN; {select}; COMMIT", "close"]
    assert [s.occurrence for s in proxied.steps()] == [1, 1, 1, 1, 2, 1, 1, 1]
    step = proxied.steps()[2]
    assert step.statements[0].params == ("7", "seven")
    assert step.tags == ("INSERT 0 1",)
    assert [s.status for s in proxied.steps()] == ["I", "T", "T", "I", "T", "T", "I", "I"]
    assert step.backend == proxied.steps()[0].backend is not None
    for step in proxied.steps("query"):
        assert step.arrived_at <= step.sent_at <= step.answered_at <= step.delivered_at
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["client"]
    assert len(proxied.history.events(h.CONNECTED)) == 1


def test_prepared_statements_keep_their_words_and_their_names(proxied: Proxied) -> None:
    with proxied.connect() as connection:
        for n in range(8):
            connection.execute("SELECT %s::int", (n,))
    steps = proxied.steps("query")
    assert [s.words for s in steps] == ["SELECT $1::int"] * 8
    assert [s.occurrence for s in steps] == list(range(1, 9))
    assert [s.statements[0].params for s in steps] == [(str(n),) for n in range(8)]
    assert proxied.words("prepare") == ["PREPARE SELECT $1::int"]


def test_statements_prepared_in_sql_keep_their_words(proxied: Proxied) -> None:
    with proxied.connect() as connection:
        connection.execute("PREPARE claim (int) AS SELECT $1 FOR UPDATE SKIP LOCKED")
        connection.execute("EXECUTE claim(3)")
    step = proxied.steps("query")[-1]
    assert step.words == "EXECUTE claim(3): SELECT $1 FOR UPDATE SKIP LOCKED"
    assert step.statements[0].params == ("3",)


def test_binary_parameters_are_decoded(proxied: Proxied) -> None:
    import datetime
    import uuid

    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=datetime.UTC)
    number = uuid.uuid4()
    with proxied.connect() as connection:
        connection.execute(
            "SELECT %b::int2, %b::int8, %b::bool, %b::uuid, %b::text, %b::timestamptz, %b::bytea",
            (7, 2**40, True, number, "täxt", moment, b"\x00\xff"))
        connection.execute("SELECT %s::text", (None,))
    first, second = proxied.steps("query")
    assert first.statements[0].params == (
        "7", str(2**40), "true", str(number), "täxt", "2026-01-02 03:04:05.000600+00", "\\x00ff")
    assert second.statements[0].params == (None,)


def test_names_do_not_carry_what_differs_from_run_to_run(proxied: Proxied) -> None:
    with proxied.connect() as connection:
        connection.execute(
            "SELECT '7f000001-0000-4000-8000-000000000001'::uuid, 'worker-7', 'done'")
    assert proxied.steps("query")[0].name == "SELECT '?'::uuid, '?', 'done'"


def test_an_error_and_a_failed_transaction(proxied: Proxied) -> None:
    with proxied.connect(autocommit=False) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
        connection.rollback()
    begin, failed, rollback = proxied.steps("query")
    assert (failed.error, failed.sqlstate, failed.status) == ("division by zero", "22012", "E")
    assert rollback.status == "I"
    assert begin.error is None


def test_several_statements_in_one_simple_query_are_one_step(proxied: Proxied) -> None:
    with proxied.connect() as connection:
        connection.execute("BEGIN; SELECT 1 AS a; SELECT 2 AS b; COMMIT")
    (step,) = proxied.steps("query")
    assert step.words == "BEGIN; SELECT 1 AS a; SELECT 2 AS b; COMMIT"
    assert step.tags == ("BEGIN", "SELECT 1", "SELECT 1", "COMMIT")


def test_a_pools_checks_are_no_queries(proxied: Proxied) -> None:
    pool = psycopg_pool.ConnectionPool(
        proxied.dsn, min_size=1, check=psycopg_pool.ConnectionPool.check_connection, open=True)
    with pool, pool.connection() as connection:
        connection.execute("SELECT 2")
    assert proxied.words("query") == ["BEGIN", "SELECT 2", "COMMIT"]
    assert set(proxied.words("check")) == {"(empty query)"}


def test_sqlalchemy_and_its_ping(proxied: Proxied) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    url = proxied.dsn.replace("postgresql://", "postgresql+psycopg://").replace(
        "postgres://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=1)
    for _ in range(2):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT 5"))
    engine.dispose()
    assert proxied.words("check")
    assert proxied.words("query")[-3:] == ["BEGIN", "SELECT 5", "COMMIT"]


# Other ways of talking -------------------------------------------------------------------------


def test_pipeline_mode(proxied: Proxied) -> None:
    with proxied.connect(autocommit=False) as connection, connection.pipeline():
        connection.execute(f"INSERT INTO {proxied.table} VALUES (%s)", (1,))
        connection.execute(f"INSERT INTO {proxied.table} VALUES (%s)", (2,))
        count = connection.execute(f"SELECT count(*) FROM {proxied.table}").fetchone()
        assert count == (2,)
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0").fetchone()
    assert proxied.count() == 0  # the transaction failed
    words = "; ".join(proxied.words("query"))
    assert words.startswith("BEGIN; INSERT INTO t VALUES ($1); INSERT INTO t VALUES ($1); SELECT")
    assert "SELECT 1/0" in words
    assert proxied.wire.settle(BOUND)


def test_a_sync_that_commits_a_pipeline_is_a_step(proxied: Proxied) -> None:
    with proxied.connect() as connection:
        with connection.pipeline() as pipeline:
            connection.execute(f"INSERT INTO {proxied.table} VALUES (1)")
            connection.execute("SELECT 5").fetchone()  # sent with a Flush
            assert proxied.count() == 0
            pipeline.sync()
        assert proxied.count() == 1
    assert "SYNC" in proxied.words("query")


def test_copy_in_both_directions(proxied: Proxied) -> None:
    rows = 20_000
    with proxied.connect() as connection:
        with connection.cursor().copy(f"COPY {proxied.table} FROM STDIN") as copy:
            for n in range(rows):
                copy.write_row((n, "x" * 30))
        with connection.cursor().copy(f"COPY {proxied.table} TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == rows
        with pytest.raises(psycopg.Error), \
                connection.cursor().copy(f"COPY {proxied.table} FROM STDIN") as copy:
            copy.write(b"not a number\tx\n")
        assert connection.execute("SELECT 5").fetchone() == (5,)
    assert proxied.words("query") == [
        "COPY t FROM STDIN", "COPY t TO STDOUT", "COPY t FROM STDIN", "SELECT 5"]
    assert proxied.steps("query")[0].tags == (f"COPY {rows}",)


def test_a_copy_asked_for_by_the_extended_protocol(proxied: Proxied) -> None:
    # In a process of its own: these calls of libpq wait with Python's global lock held.
    code = ("import sys, psycopg\n"
            "c = psycopg.connect(sys.argv[1], autocommit=True)\n"
            "pg = c.pgconn\n"
            "pg.send_query_params(f'COPY {sys.argv[2]} (n) FROM STDIN'.encode(), None)\n"
            "assert pg.get_result().status == psycopg.pq.ExecStatus.COPY_IN\n"
            "pg.put_copy_data(b'1\\n2\\n')\n"
            "pg.put_copy_end()\n"
            "assert pg.get_result().status == psycopg.pq.ExecStatus.COMMAND_OK\n"
            "assert pg.get_result() is None\n"
            "c.execute('SELECT 5')\n")
    subprocess.run([sys.executable, "-c", code, proxied.dsn, proxied.table], timeout=BOUND,
                   check=True)
    assert proxied.count() == 2
    assert proxied.words("query") == ["COPY t (n) FROM STDIN", "SELECT 5"]


def test_a_server_side_cursor(proxied: Proxied) -> None:
    with proxied.connect(autocommit=False) as connection, connection.cursor("many") as cursor:
        cursor.itersize = 40
        cursor.execute("SELECT generate_series(1, 100)")
        assert len(list(cursor)) == 100
    assert [w for w in proxied.words("query") if w.startswith("FETCH")] == [
        'FETCH FORWARD 40 FROM "many"'] * 3


def test_notifications_pass_while_nothing_is_asked(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        connection.execute("LISTEN wire_news")
        heard = aside(lambda: next(connection.notifies(timeout=BOUND)).payload)
        proxied.admin.execute("NOTIFY wire_news, 'hello'")
        assert heard.result(BOUND) == "hello"


def test_a_notification_passes_a_message_that_is_held(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        connection.execute("LISTEN wire_news")
        hold = proxied.wire.hold(lambda s: s.words == "SELECT 6")
        got: Future[str] = Future()
        connection.add_notify_handler(lambda n: got.set_result(n.payload))
        answer = aside(lambda: connection.execute("SELECT 6").fetchone())
        assert hold.wait_reached(BOUND)
        proxied.admin.execute("NOTIFY wire_news, 'meanwhile'")
        hold.release()
        assert answer.result(BOUND) == (6,)
        assert got.result(BOUND) == "meanwhile"


def test_a_cancel_passes(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        asked = aside(lambda: connection.execute("SELECT pg_sleep(60)"))
        assert proxied.history.wait(
            lambda e: e.kind == h.STEP_ARRIVED and "pg_sleep" in e.text, BOUND)
        while not proxied.admin.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
                " AND query LIKE '%%pg_sleep%%'",
                (proxied.wire.connections[0].backend,)).fetchone():
            pass
        connection.cancel_safe(timeout=BOUND)
        with pytest.raises(psycopg.errors.QueryCanceled):
            asked.result(BOUND)
        (note,) = [e for e in proxied.history.events(h.NOTE) if e.data.get("cancel")]
        assert note.data["backend"] == proxied.wire.connections[0].backend
    assert len(proxied.history.events(h.CONNECTED)) == 1


def test_asyncpg(proxied: Proxied) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def work() -> None:
        pool = await asyncpg.create_pool(proxied.dsn, min_size=2, max_size=2)
        async with pool.acquire() as connection:
            async with connection.transaction():
                await connection.execute(
                    f"INSERT INTO {proxied.table} VALUES ($1, $2)", 1, "one")
            assert await connection.fetchval(f"SELECT what FROM {proxied.table}") == "one"
            await connection.copy_records_to_table(
                proxied.table, records=[(n, "x") for n in range(100)])
            async with connection.transaction():
                found = [r async for r in connection.cursor("SELECT generate_series(1, 120)")]
                assert len(found) == 120
            await connection.executemany(
                f"INSERT INTO {proxied.table} VALUES ($1, 'many')", [(n,) for n in range(50)])
            heard: asyncio.Queue[str] = asyncio.Queue()

            def listener(*args: Any) -> None:
                heard.put_nowait(args[-1])

            await connection.add_listener("wire_pg", listener)
            await connection.execute("NOTIFY wire_pg, 'there'")
            assert await asyncio.wait_for(heard.get(), BOUND) == "there"
            await connection.remove_listener("wire_pg", listener)
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1/$1::int", 0)
        await pool.close()

    asyncio.run(work())
    assert proxied.wire.wait_closed(BOUND)
    insert = "INSERT INTO t VALUES ($1, $2)"
    (step,) = [s for s in proxied.steps("query") if s.words.endswith("VALUES ($1, $2)")]
    assert step.statements[0].params == ("1", "one")
    assert step.name.replace(proxied.table, "t") == f"BEGIN; {insert}"
    assert f"PREPARE {insert}" in proxied.words("prepare")
    assert len(proxied.steps("connect")) == len(proxied.steps("close")) == 2
    assert [s for s in proxied.steps("query") if s.error == "division by zero"]


def test_asyncpg_cancels(proxied: Proxied) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def work() -> None:
        connection = await asyncpg.connect(proxied.dsn)
        # Prepared before: asyncpg cancels nothing if the time is over before it is asked for.
        statement = await connection.prepare("SELECT pg_sleep(60)")
        with pytest.raises(TimeoutError):
            await statement.fetchval(timeout=0.05)
        assert await connection.fetchval("SELECT 5") == 5
        await connection.close()

    asyncio.run(work())
    assert [e for e in proxied.history.events(h.NOTE) if e.data.get("cancel")]


def psql(proxied: Proxied, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    program = psql_path()
    if program is None:
        pytest.skip("no psql here")
    return subprocess.run(
        [str(program), "-X", "-A", "-t", proxied.dsn, *arguments], text=True, timeout=BOUND,
        capture_output=True, **options)


def test_psql(proxied: Proxied) -> None:
    script = (f"INSERT INTO {proxied.table} VALUES (1, 'it''s');\nBEGIN;\n"
              f"UPDATE {proxied.table} SET n = 2;\nCOMMIT;\n"
              f"\\copy {proxied.table} FROM stdin\n3\tthree\n\\.\n"
              f"SELECT sum(n) FROM {proxied.table};\n")
    done = psql(proxied, input=script)
    assert done.stdout.split()[-1] == "5", done.stderr
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.words() == [
        "connect", "INSERT INTO t VALUES (1, 'it''s')", "BEGIN", "UPDATE t SET n = 2", "COMMIT",
        "COPY t FROM STDIN", "SELECT sum(n) FROM t", "close"]


def test_encryption_is_declined_and_the_session_goes_on_without(proxied: Proxied) -> None:
    with proxied.connect(sslmode="prefer", gssencmode="prefer") as connection:
        assert connection.execute("SELECT 5").fetchone() == (5,)
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.words() == ["connect", "SELECT 5", "close"]
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        proxied.connect(sslmode="require")


# Chunks ----------------------------------------------------------------------------------------


class Chopper:
    """A relay that hands bytes on in pieces of another size than they came in."""

    def __init__(self, upstream: int, size: int) -> None:
        self.upstream, self.size = upstream, size
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.upstream))
                for one, other in ((client, server), (server, client)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._relay, args=(one, other), daemon=True).start()

    def _relay(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for at in range(0, len(data), self.size):
                    to.sendall(data[at:at + self.size])
            to.shutdown(socket.SHUT_WR)


def conversation(dsn: str, table: str) -> None:
    with psycopg.connect(dsn) as connection:
        for n in range(7):
            connection.execute(f"INSERT INTO {table} VALUES (%s, 'some text')", (n,))
        connection.commit()
        with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
            list(copy)
        with connection.pipeline():
            connection.execute("SELECT %s::int", (1,))
            connection.execute("SELECT 2")


@pytest.mark.parametrize("size", [1, 3, 17])
@pytest.mark.parametrize("side", ["client", "server"])
def test_steps_do_not_depend_on_chunks(
    proxied: Proxied, history: History, loop: LoopThread, size: int, side: str
) -> None:
    conversation(proxied.dsn, proxied.table)
    assert proxied.wire.wait_closed(BOUND)
    whole = [(s.kind, s.words, s.name, s.tags, s.statements) for s in proxied.steps()]
    seen = len(history)
    if side == "client":
        chopper = Chopper(proxied.port, size)
        proxied.wire.begin()
        conversation(proxied.with_port(chopper.port), proxied.table)
        assert proxied.wire.wait_closed(BOUND)
    else:
        chopper = Chopper(proxied.server.port, size)
        wire = PostgresWire(loop, history, "worker-2", ("127.0.0.1", chopper.port))
        conversation(proxied.with_port(wire.start()), proxied.table)
        assert wire.wait_closed(BOUND)
        wire.close()
    chopper.listener.close()
    chopped = [e.data["step"] for e in history.events(h.STEP_ARRIVED, since=seen)]

    def fold(tags: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("COPY" if tag.startswith("COPY") else tag for tag in tags)

    assert [(s.kind, s.words, s.name, fold(s.tags), s.statements) for s in chopped] == [
        (kind, words, name, fold(tags), statements)
        for kind, words, name, tags, statements in whole]


def query(text: str) -> bytes:
    body = text.encode() + b"\0"
    return b"Q" + struct.pack(">i", len(body) + 4) + body


def test_units_of_one_chunk_go_on_one_at_a_time(proxied: Proxied) -> None:
    connection = proxied.connect()
    hold = proxied.wire.hold(lambda s: "(1)" in s.words, when="after")
    insert = f"INSERT INTO {proxied.table} VALUES"
    os.write(connection.fileno(), query(f"{insert} (1)") + query(f"{insert} (2)"))
    assert hold.wait_reached(BOUND)
    assert proxied.count() == 1
    assert len(proxied.steps("query")) == 1  # the second has not even arrived
    hold.release()
    assert proxied.wire.settle(BOUND)
    assert proxied.count() == 2
    kinds = [e.kind for e in proxied.history.events(
        h.STEP_ARRIVED, h.STEP_ANSWERED, h.STEP_DELIVERED) if e.data["step"].kind == "query"]
    assert kinds == [h.STEP_ARRIVED, h.STEP_ANSWERED, h.STEP_DELIVERED] * 2


# Holding ---------------------------------------------------------------------------------------


def test_held_before_the_server_hears_it(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        hold = proxied.wire.hold(lambda s: s.words.startswith("INSERT"))
        done = aside(lambda: connection.execute(f"INSERT INTO {proxied.table} VALUES (1)"))
        step = hold.wait_reached(BOUND)
        assert step is not None
        assert step.sent_at is None
        assert proxied.count() == 0
        assert not proxied.wire.settle(0.05)
        assert [c.idle for c in proxied.wire.connections] == [False]
        hold.release()
        done.result(BOUND)
        assert proxied.count() == 1
        assert proxied.wire.settle(BOUND)
        connection.execute(f"INSERT INTO {proxied.table} VALUES (2)")  # held once only


def test_held_after_the_servers_word(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        hold = proxied.wire.hold(lambda s: s.words.startswith("INSERT"), when="after")
        done = aside(lambda: connection.execute(f"INSERT INTO {proxied.table} VALUES (1)"))
        step = hold.wait_reached(BOUND)
        assert step is not None
        assert step.tags == ("INSERT 0 1",)
        assert step.delivered_at is None
        assert proxied.count() == 1
        assert not done.done()
        hold.release()
        done.result(BOUND)
        assert proxied.wire.settle(BOUND)  # the client may be quicker than the history
        assert step.delivered_at is not None


def test_a_hold_for_each_time(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        hold = proxied.wire.hold(lambda s: s.words == "SELECT 5", times=None)
        done = aside(lambda: [connection.execute("SELECT 5") for _ in range(3)])
        assert hold.wait_reached(BOUND).occurrence == 1
        hold.next()
        assert hold.wait_reached(BOUND).occurrence == 2
        hold.release()
        done.result(BOUND)
        assert len(hold.steps) == 2


def test_other_connections_go_on_meanwhile(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as one, proxied.connect() as other:
        hold = proxied.wire.hold(lambda s: s.words == "SELECT 5")
        done = aside(lambda: one.execute("SELECT 5"))
        assert hold.wait_reached(BOUND)
        assert other.execute("SELECT 6").fetchone() == (6,)
        hold.release()
        done.result(BOUND)


class Recorder(Gate):
    """A gate that writes down what passes, and decides about one step."""

    def __init__(self, words: str = "", when: str = "", decision: type[Exception] | None = None):
        self.passed: list[tuple[str, str]] = []
        self.words, self.when, self.decision = words, when, decision

    async def _pass(self, when: str, step: Step) -> None:
        await asyncio.sleep(0)
        self.passed.append((when, step.words))
        if self.decision and self.words in step.words and when == self.when:
            raise self.decision

    async def before(self, step: Step) -> None:
        await self._pass("before", step)

    async def after(self, step: Step) -> None:
        await self._pass("after", step)


def test_a_gate_is_asked_twice_about_each_step(proxied: Proxied) -> None:
    gate = proxied.wire.gate = Recorder()
    with proxied.connect() as connection:
        connection.execute("SELECT 5")
    assert proxied.wire.wait_closed(BOUND)
    assert gate.passed == [(when, words) for words in ("connect", "SELECT 5", "close")
                           for when in ("before", "after")]


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_a_gate_cuts(proxied: Proxied, when: str, rows: int) -> None:
    proxied.wire.gate = Recorder("INSERT", when, Cut)
    connection = proxied.connect()
    with pytest.raises(psycopg.OperationalError):
        connection.execute(f"INSERT INTO {proxied.table} VALUES (1)")
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.count() == rows
    assert proxied.steps("query")[0].fate == "cut"
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["check"]
    assert proxied.steps("query")[0].delivered_at is None


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_a_gate_drops(proxied: Proxied, aside: Any, when: str, rows: int) -> None:
    proxied.wire.gate = Recorder("INSERT", when, Drop)
    connection = proxied.connect()
    asked = aside(lambda: connection.execute(f"INSERT INTO {proxied.table} VALUES (1)"))
    assert proxied.history.wait_until(
        lambda _: [s for s in proxied.steps("query") if s.fate == "dropped"], BOUND)
    assert proxied.count() == rows
    assert not asked.done()
    proxied.wire.cut()
    with pytest.raises(psycopg.OperationalError):
        asked.result(BOUND)


def test_a_hold_can_end_in_a_cut(proxied: Proxied, aside: Any) -> None:
    connection = proxied.connect()
    hold = proxied.wire.hold(lambda s: s.words.startswith("INSERT"), when="after")
    asked = aside(lambda: connection.execute(f"INSERT INTO {proxied.table} VALUES (1)"))
    assert hold.wait_reached(BOUND)
    hold.cut()
    with pytest.raises(psycopg.OperationalError):
        asked.result(BOUND)
    assert proxied.count() == 1


def test_a_gate_that_breaks_is_the_kits_fault_and_holds_nobody_up(proxied: Proxied) -> None:
    hold = proxied.wire.hold(lambda s: 1 / 0 > 1)  # type: ignore[arg-type]
    with proxied.connect() as connection:
        assert connection.execute("SELECT 5").fetchone() == (5,)
    hold.release()
    assert proxied.loop.errors
    assert all(isinstance(e, ZeroDivisionError) for e in proxied.loop.errors)
    proxied.loop.errors.clear()


# Cutting, refusing, stalling -------------------------------------------------------------------


def backends(proxied: Proxied, *pids: int | None) -> int:
    row = proxied.admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", (list(pids),)).fetchone()
    assert row is not None
    return int(row[0])


def test_cut_takes_all_connections_at_both_ends(proxied: Proxied) -> None:
    one, other = proxied.connect(), proxied.connect()
    pids = [c.backend for c in proxied.wire.connections]
    assert backends(proxied, *pids) == 2
    proxied.wire.cut()
    assert proxied.wire.connections == []
    for connection in (one, other):
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 5")
    while backends(proxied, *pids):  # they end by themselves
        pass
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["check"] * 2
    with proxied.connect() as again:
        assert again.execute("SELECT 5").fetchone() == (5,)


def test_cut_one_connection(proxied: Proxied) -> None:
    one, other = proxied.connect(), proxied.connect()
    proxied.wire.cut(proxied.wire.connections[0].number)
    with pytest.raises(psycopg.OperationalError):
        one.execute("SELECT 5")
    assert other.execute("SELECT 5").fetchone() == (5,)


def test_refused_as_if_no_server_were_there(proxied: Proxied) -> None:
    with proxied.connect() as before:
        proxied.wire.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxied.port), timeout=BOUND)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            proxied.connect()
        assert before.execute("SELECT 5").fetchone() == (5,)
        proxied.wire.refuse(False)
        with proxied.connect() as after:
            assert after.execute("SELECT 5").fetchone() == (5,)
    for _ in range(3):
        proxied.wire.refuse()
        proxied.wire.refuse(False)
    proxied.connect().close()
    proxied.wire.refuse()  # closing while it refuses is fine too


def test_stalled_and_going_on(proxied: Proxied, aside: Any) -> None:
    with proxied.connect() as connection:
        proxied.wire.stall()
        asked = aside(lambda: connection.execute(
            f"INSERT INTO {proxied.table} VALUES (1) RETURNING n").fetchone())
        joined = aside(lambda: proxied.connect().close())
        assert not proxied.wire.settle(0.1) or not asked.done()
        assert proxied.count() == 0
        assert not joined.done()
        proxied.wire.stall(False)
        assert asked.result(BOUND) == (1,)
        joined.result(BOUND)


# Ends ------------------------------------------------------------------------------------------


def test_what_a_dead_client_has_sent_is_done_all_the_same(proxied: Proxied) -> None:
    code = ("import os, sys, psycopg, signal\n"
            "c = psycopg.connect(sys.argv[1], autocommit=True)\n"
            "os.write(c.fileno(), bytes.fromhex(sys.argv[2]))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n")
    both = b"".join(query(f"INSERT INTO {proxied.table} VALUES ({n})") for n in (1, 2))
    subprocess.run([sys.executable, "-c", code, proxied.dsn, both.hex()], timeout=BOUND)
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.count() == 2
    steps = proxied.steps("query")
    assert [s.tags for s in steps] == [("INSERT 0 1",)] * 2
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["client"]


def test_a_session_that_the_server_ends(proxied: Proxied) -> None:
    connection = proxied.connect()
    proxied.admin.execute("SELECT pg_terminate_backend(%s)",
                          (proxied.wire.connections[0].backend,))
    assert proxied.wire.wait_closed(BOUND)
    with pytest.raises(psycopg.errors.AdminShutdown):
        connection.execute("SELECT 5")
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["server"]


def test_a_session_that_the_server_ends_in_the_middle(proxied: Proxied, aside: Any) -> None:
    connection = proxied.connect()
    asked = aside(lambda: connection.execute("SELECT pg_sleep(60)"))
    assert proxied.history.wait(lambda e: "pg_sleep" in e.text, BOUND)
    proxied.admin.execute("SELECT pg_terminate_backend(%s)",
                          (proxied.wire.connections[0].backend,))
    with pytest.raises(psycopg.errors.AdminShutdown):
        asked.result(BOUND)
    assert "terminating connection" in proxied.steps("query")[0].error


def test_an_answer_that_is_held_outlives_its_session(proxied: Proxied, aside: Any) -> None:
    connection = proxied.connect()
    hold = proxied.wire.hold(lambda s: s.words == "SELECT 5", when="after")
    asked = aside(lambda: connection.execute("SELECT 5").fetchone())
    assert hold.wait_reached(BOUND)
    proxied.admin.execute("SELECT pg_terminate_backend(%s)",
                          (proxied.wire.connections[0].backend,))
    assert proxied.history.wait(lambda e: e.kind == h.DISCONNECTED, BOUND)
    hold.release()
    assert asked.result(BOUND) == (5,)
    assert proxied.wire.wait_closed(BOUND)


def test_no_server_there(loop: LoopThread, history: History, proxied: Proxied) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wire = PostgresWire(loop, history, "worker-1", ("127.0.0.1", port))
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxied.with_port(wire.start()))
    assert wire.wait_closed(BOUND)
    wire.close()
    wire.close()


def test_a_refused_login_is_an_answer(proxied: Proxied) -> None:
    parts = urlsplit(proxied.dsn)
    wrong = parts._replace(path="/no_such_database").geturl()
    with pytest.raises(psycopg.OperationalError, match="no_such_database"):
        psycopg.connect(wrong)
    assert proxied.wire.wait_closed(BOUND)
    (step,) = proxied.steps("connect")
    assert "no_such_database" in str(step.error)


def test_clients_that_speak_something_else(proxied: Proxied) -> None:
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x00\x00\x00\x01abcd", b""):
        with socket.create_connection(("127.0.0.1", proxied.port), timeout=BOUND) as client:
            client.sendall(said)
            if not said:
                continue
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.steps() == []


def test_a_message_that_cannot_be_read_is_the_servers_business(proxied: Proxied) -> None:
    connection = proxied.connect()
    bind = b"no end of string"
    sync = b"S" + struct.pack(">i", 4)
    os.write(connection.fileno(), b"B" + struct.pack(">i", 4 + len(bind)) + bind + sync)
    assert proxied.wire.settle(BOUND)
    (step,) = proxied.steps("query")
    assert step.words == "(a message that cannot be read)"
    assert step.sqlstate == "08P01"


def test_large_messages_in_both_directions(proxied: Proxied) -> None:
    size = 10_000_000
    with proxied.connect() as connection:
        found = connection.execute("SELECT length(%s), repeat('x', %s)", ("y" * size, size))
        length, text = found.fetchone()  # type: ignore[misc]
        assert (length, len(text)) == (size, size)
        rows = connection.execute("SELECT repeat('z', 1000) FROM generate_series(1, 20000)")
        assert len(rows.fetchall()) == 20000
    assert proxied.wire.settle(BOUND)


def test_many_connections_at_once(proxied: Proxied, aside: Any) -> None:
    def talk(n: int) -> None:
        with proxied.connect() as connection:
            for _ in range(20):
                assert connection.execute("SELECT %s::int", (n,)).fetchone() == (n,)

    for done in [aside(talk, n) for n in range(12)]:
        done.result(BOUND)
    assert proxied.wire.wait_closed(BOUND)
    assert len(proxied.steps("close")) == 12
    assert len(proxied.steps("query", event=h.STEP_DELIVERED)) == 240


def test_steps_after_a_process_has_ended_are_all_in_the_history(proxied: Proxied) -> None:
    code = ("import sys, psycopg\n"
            "psycopg.connect(sys.argv[1], autocommit=True).execute('SELECT 5').connection.close()")
    for n in range(1, 4):
        subprocess.run([sys.executable, "-c", code, proxied.dsn], timeout=BOUND, check=True)
        assert proxied.wire.wait_closed(BOUND)
        assert len(proxied.steps("close")) == n
