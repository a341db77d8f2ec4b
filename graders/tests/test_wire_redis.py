"""The wire to Redis, on a real server, with redis-py and with bare sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis

from graders.harness import history as h
from graders.harness import resp
from graders.harness.history import History
from graders.harness.loop import LoopThread
from graders.harness.wire import Step
from graders.harness.wire_redis import RedisWire

BOUND = 20.0  # seconds; met only when something is broken


class Proxied:
    """A wire into a database of its own, and direct access past the wire."""

    def __init__(self, loop: LoopThread, history: History, server: Any, database: int) -> None:
        self.history = history
        self.server = server
        self.database = database
        self.wire = RedisWire(
            loop, history, "worker-1", (server.host, server.port), database=database)
        self.port = self.wire.start()
        self.admin = redis.Redis(server.host, server.port, db=database, decode_responses=True)
        self.clients: list[redis.Redis] = []

    def connect(self, **options: Any) -> redis.Redis:
        options = {"decode_responses": True, "single_connection_client": True} | options
        client = redis.Redis("127.0.0.1", self.port, **options)
        self.clients.append(client)
        return client

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=BOUND)

    def steps(self, *kinds: str, event: str = h.STEP_ARRIVED) -> list[Step]:
        steps = [e.data["step"] for e in self.history.events(event)]
        return [s for s in steps if not kinds or s.kind in kinds]

    def words(self, *kinds: str) -> list[str]:
        return [s.words for s in self.steps(*kinds)]

    def blocked(self) -> None:
        """Wait until a client of ours is blocked at the server."""
        while not any(c.get("db") == str(self.database) and "b" in c["flags"]
                      for c in self.admin.client_list()):
            pass

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.wire.close()
        self.admin.flushdb()
        self.admin.close()


@pytest.fixture
def proxied(loop: LoopThread, history: History, redis_server: Any, redis_database: int
            ) -> Iterator[Proxied]:
    proxied = Proxied(loop, history, redis_server, redis_database)
    yield proxied
    proxied.close()


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in a thread beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def packed(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%b\r\n" % (len(w.encode()), w.encode()) for w in words)


# RESP ------------------------------------------------------------------------------------------

REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", "OK"), (b"-ERR no\r\n", "ERR no"), (b":-7\r\n", -7), (b"$-1\r\n", None),
    (b"$0\r\n\r\n", ""), (b"$7\r\na\r\nb\r\nc\r\n", "a\r\nb\r\nc"), (b"*-1\r\n", None),
    (b"*0\r\n", []), (b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n", ["a", [1, []]]), (b"_\r\n", None),
    (b"#t\r\n", True), (b",1.5\r\n", 1.5), (b"(123\r\n", "123"), (b"!3\r\nERR\r\n", "ERR"),
    (b"=7\r\ntxt:abc\r\n", "abc"), (b"%1\r\n+k\r\n:1\r\n", {"k": 1}), (b"~1\r\n:1\r\n", [1]),
    (b">2\r\n+message\r\n+x\r\n", ["message", "x"]),
    (b"|1\r\n+ttl\r\n:9\r\n*1\r\n:5\r\n", [5]), (b"$3\r\n\xff\xfea\r\n", "\\xff\\xfea"),
]


@pytest.mark.parametrize(("raw", "value"), REPLIES)
def test_replies(raw: bytes, value: Any) -> None:
    assert resp.value(raw) == value
    for cut in range(len(raw)):
        assert resp.reply_end(bytearray(raw[:cut]), 0) is None
    assert resp.reply_end(bytearray(b"x" + raw + b"+more"), 1) == len(raw) + 1


def test_commands() -> None:
    raw = packed("SET", "k", "a\r\nb") + b"\r\nPING\r\n"
    words, at = resp.command(bytearray(raw), 0) or ([], 0)
    assert words == [b"SET", b"k", b"a\r\nb"]
    assert resp.command(bytearray(raw), at) == ([], at + 2)
    assert resp.command(bytearray(raw), at + 2) == ([b"PING"], len(raw))
    for cut in range(at):
        assert resp.command(bytearray(raw[:cut]), 0) is None
    with pytest.raises(resp.NotRespError):
        resp.command(bytearray(b"*1\r\n:1\r\n"), 0)
    with pytest.raises(resp.NotRespError):
        resp.command(bytearray(b"*1000000000\r\n"), 0)
    with pytest.raises(resp.NotRespError):
        resp.command(bytearray(b"*100\r\n$-9\r\n"), 0)


# Words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_session_in_words(proxied: Proxied, protocol: int) -> None:
    client = proxied.connect(protocol=protocol)
    client.lpush("work_queue", '{"task_id": "7f000001-0000-4000-8000-000000000001"}')
    assert client.brpop("work_queue", 1)
    assert client.brpop("work_queue", 0.01) is None
    client.set("result:7f000001-0000-4000-8000-000000000001", "two\nlines", ex=86400)
    client.ping()
    with pytest.raises(redis.ResponseError):
        client.execute_command("NONSENSE")
    client.close()
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.words() == [
        "connect",
        'LPUSH work_queue {"task_id": "7f000001-0000-4000-8000-000000000001"}',
        "BRPOP work_queue 1", "BRPOP work_queue 0.01",
        "SET result:7f000001-0000-4000-8000-000000000001 two lines EX 86400",
        "PING", "NONSENSE"]
    push, pop, timed_out, store, ping, nonsense = proxied.steps()[1:]
    assert push.name == "LPUSH work_queue {task_id}"
    assert store.name == "SET result:? two lines EX ?"
    assert store.statements[0].sql == "SET"
    assert store.statements[0].params[1] == "two\nlines"
    assert (push.tags, timed_out.tags, store.tags) == (("1",), ("nothing",), ("OK",))
    assert pop.data["reply"][0] == "work_queue"
    assert ping.kind == "check"
    assert nonsense.error is not None
    assert "unknown command" in nonsense.error
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["client"]
    assert len(proxied.history.events(h.CONNECTED)) == 1


def test_a_handshake_is_one_step(proxied: Proxied) -> None:
    client = proxied.connect(client_name="me", protocol=3)
    client.get("a")
    client.client_setname("later")
    assert proxied.words() == ["connect", "GET a", "CLIENT SETNAME later"]


@pytest.mark.parametrize("transaction", [True, False])
def test_pipelines(proxied: Proxied, transaction: bool) -> None:
    pipeline = proxied.connect().pipeline(transaction=transaction)
    pipeline.lpush("q", "one").incrby("n", 2).get("n")
    assert pipeline.execute() == [1, 2, "2"]
    commands = ["LPUSH q one", "INCRBY n 2", "GET n"]
    if transaction:
        assert proxied.words("command") == ["; ".join(["MULTI", *commands, "EXEC"])]
        (step,) = proxied.steps("command")
        assert [s.sql for s in step.statements] == ["LPUSH", "INCRBY", "GET"]
        assert step.data["reply"] == [1, 2, "2"]
    else:
        assert proxied.words("command") == commands


def test_a_transaction_that_is_talked_through(proxied: Proxied) -> None:
    client = proxied.connect()
    client.execute_command("WATCH", "n")
    assert client.execute_command("MULTI") in (True, "OK")
    assert client.execute_command("INCR", "n") == "QUEUED"
    assert client.execute_command("INCR", "n") == "QUEUED"
    assert client.execute_command("EXEC") == [1, 2]
    client.execute_command("MULTI")
    client.execute_command("DISCARD")
    assert proxied.words("command") == [
        "WATCH n", "MULTI; INCR n; INCR n; EXEC", "MULTI; DISCARD"]


def test_units_of_one_chunk_go_on_one_at_a_time(proxied: Proxied) -> None:
    hold = proxied.wire.hold(lambda s: s.words == "RPUSH q 1", when="after")
    with proxied.raw() as client:
        client.sendall(packed("RPUSH", "q", "1") + packed("RPUSH", "q", "2") + b"RPUSH q 3\r\n")
        assert hold.wait_reached(BOUND)
        assert proxied.admin.lrange("q", 0, -1) == ["1"]
        assert proxied.words() == ["RPUSH q 1"]
        hold.release()
        assert proxied.wire.settle(BOUND)
        assert proxied.admin.lrange("q", 0, -1) == ["1", "2", "3"]
        assert proxied.words() == ["RPUSH q 1", "RPUSH q 2", "RPUSH q 3"]


def test_steps_do_not_depend_on_chunks(proxied: Proxied) -> None:
    said = (packed("HELLO", "3") + packed("RPUSH", "q", "a\r\nb") + packed("MULTI")
            + packed("INCR", "n") + packed("EXEC") + packed("LRANGE", "q", "0", "-1"))
    seen = []
    for size in (1, 5, 1000):
        proxied.admin.flushdb()
        proxied.wire.begin()
        before = len(proxied.steps())
        with proxied.raw() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(said), size):
                client.sendall(said[at:at + size])
            got = b""
            while not got.endswith(b"*1\r\n$4\r\na\r\nb\r\n"):
                got += client.recv(1000)
        assert proxied.wire.wait_closed(BOUND)
        seen.append([(s.kind, s.words, s.name, s.occurrence, s.tags if s.kind != "connect" else ())
                     for s in proxied.steps()[before:]])
    assert seen[0] == seen[1] == seen[2]
    assert [words for _, words, *_ in seen[0]] == [
        "connect", "RPUSH q a b", "MULTI; INCR n; EXEC", "LRANGE q 0 -1"]


# Its own database ------------------------------------------------------------------------------


def test_a_process_stays_in_its_database(proxied: Proxied) -> None:
    other = redis.Redis(proxied.server.host, proxied.server.port, db=0, decode_responses=True)
    other.set("kept", "yes")
    client = proxied.connect()
    client.set("here", "1")
    assert proxied.admin.get("here") == "1"
    assert client.select(0)
    assert client.get("here") == "1"
    with pytest.raises(redis.ResponseError, match="out of range"):
        client.select(3)
    assert client.execute_command("RESET")
    assert client.get("here") == b"1" or client.get("here") == "1"
    with pytest.raises(redis.ResponseError, match="not allowed"):
        client.execute_command("SHUTDOWN", "NOSAVE")
    client.flushall()
    assert proxied.admin.dbsize() == 0
    assert other.get("kept") == "yes"
    other.delete("kept")
    assert proxied.words("command")[-1] == "FLUSHALL"


def test_without_a_database_of_its_own(loop: LoopThread, history: History, proxied: Proxied,
                                       redis_database: int) -> None:
    wire = RedisWire(loop, history, "worker-2", proxied.wire.upstream)
    client = redis.Redis("127.0.0.1", wire.start(), db=redis_database)
    client.set("mine", "1")
    assert proxied.admin.get("mine") == "1"
    client.close()
    wire.close()


def test_a_login_that_the_server_refuses_is_the_kits_fault(
    loop: LoopThread, history: History, proxied: Proxied
) -> None:
    wire = RedisWire(loop, history, "worker-2", proxied.wire.upstream, database=100_000)
    client = redis.Redis("127.0.0.1", wire.start())
    client.ping()
    assert "refuses the grader's own command" in str(loop.errors[0])
    loop.errors.clear()
    client.close()
    wire.close()


# Blocking --------------------------------------------------------------------------------------


def test_a_blocked_command_is_answered_when_its_job_comes(proxied: Proxied, aside: Any) -> None:
    client = proxied.connect()
    popped = aside(lambda: client.brpop("q", 0))
    proxied.blocked()
    assert proxied.wire.settle(BOUND, blocked_ok=True)
    assert not proxied.wire.settle(0.05)
    proxied.admin.lpush("q", "job")
    assert tuple(popped.result(BOUND)) == ("q", "job")
    assert proxied.words("command") == ["BRPOP q 0"]
    assert proxied.words("reply") == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_answer_outstanding_when_a_scenario_begins_is_a_step(
    proxied: Proxied, aside: Any, when: str
) -> None:
    client = proxied.connect()
    popped = aside(lambda: client.brpop("q", 0))
    proxied.blocked()
    seen = len(proxied.history)
    proxied.wire.begin()
    hold = proxied.wire.hold(lambda s: s.kind == "reply", when=when)
    proxied.admin.lpush("q", "job")
    step = hold.wait_reached(BOUND)
    assert step is not None
    assert (step.words, step.name, step.occurrence) == (
        "reply to BRPOP q 0", "reply to BRPOP q 0", 1)
    assert step.data["reply"] == ["q", "job"]
    assert proxied.admin.llen("q") == 0
    assert not popped.done()
    hold.release()
    popped.result(BOUND)
    client.brpop("q", 0.01)
    assert proxied.wire.settle(BOUND)
    events = [(e.kind, e.data["step"].kind) for e in proxied.history.events(since=seen)
              if "step" in e.data]
    assert events == [(kind, step) for step in ("reply", "command")
                      for kind in (h.STEP_ARRIVED, h.STEP_ANSWERED, h.STEP_DELIVERED)]


def test_a_dead_clients_blocked_command_takes_no_job(proxied: Proxied) -> None:
    code = ("import sys, redis\n"
            "redis.Redis('127.0.0.1', int(sys.argv[1])).brpop('q', 0)\n")
    worker = subprocess.Popen([sys.executable, "-c", code, str(proxied.port)])
    proxied.blocked()
    worker.kill()
    worker.wait()
    assert proxied.wire.wait_closed(BOUND)
    proxied.admin.lpush("q", "job")
    assert proxied.admin.llen("q") == 1
    assert [e.data["by"] for e in proxied.history.events(h.DISCONNECTED)] == ["client"]


def test_a_job_that_is_popped_and_not_delivered(proxied: Proxied, aside: Any) -> None:
    client = proxied.connect(retry=None)
    hold = proxied.wire.hold(lambda s: s.words.startswith("BRPOP"), when="after")
    proxied.admin.lpush("q", "job")
    popped = aside(lambda: client.brpop("q", 0))
    assert hold.wait_reached(BOUND)
    assert proxied.admin.llen("q") == 0
    hold.cut()
    with pytest.raises(redis.ConnectionError):
        popped.result(BOUND)


@pytest.mark.parametrize("move", [("BLMOVE", "q", "busy", "RIGHT", "LEFT", "0"),
                                  ("XREAD", "BLOCK", "0", "STREAMS", "s", "$")])
def test_other_commands_that_block(proxied: Proxied, aside: Any, move: tuple[str, ...]) -> None:
    client = proxied.connect()
    got = aside(lambda: client.execute_command(*move))
    proxied.blocked()
    assert proxied.wire.settle(BOUND, blocked_ok=True)
    assert not proxied.wire.settle(0.05)
    proxied.admin.lpush("q", "job")
    proxied.admin.xadd("s", {"a": "b"})
    assert got.result(BOUND)


# Publish and subscribe -------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_publish_and_subscribe(proxied: Proxied, protocol: int) -> None:
    news = f"news-{os.getpid()}-{protocol}"
    client = proxied.connect(protocol=protocol, single_connection_client=False)
    listener = client.pubsub()
    listener.subscribe(news, news + "-2")
    listener.psubscribe(news + "*")
    for _ in range(3):
        assert listener.get_message(timeout=BOUND)["type"].endswith("subscribe")
    proxied.admin.publish(news, "hello")
    kinds = {listener.get_message(timeout=BOUND)["type"] for _ in range(2)}
    assert kinds == {"message", "pmessage"}
    if protocol == 2:  # with RESP3 redis-py takes the answer apart letter by letter
        listener.ping()
        assert listener.get_message(timeout=BOUND)["type"] == "pong"
    listener.unsubscribe()
    listener.punsubscribe()
    for _ in range(3):
        assert listener.get_message(timeout=BOUND)["type"].endswith("unsubscribe")
    assert proxied.wire.settle(BOUND)
    listener.close()
    client.close()
    assert proxied.words("command")[:2] == [f"SUBSCRIBE {news} {news}-2", f"PSUBSCRIBE {news}*"]


def test_pushes_pass_while_a_command_is_under_way(proxied: Proxied) -> None:
    with proxied.raw() as client:
        client.sendall(packed("HELLO", "3") + packed("CLIENT", "TRACKING", "ON")
                       + packed("GET", "watched") + packed("BRPOP", "q", "0"))
        proxied.blocked()
        proxied.admin.set("watched", "1")
        got = b""
        while b"invalidate" not in got or not got.endswith(b"watched\r\n"):
            got += client.recv(1000)
        proxied.admin.lpush("q", "job")
        while not got.endswith(b"job\r\n"):
            got += client.recv(1000)
    assert proxied.words("command")[-1] == "BRPOP q 0"


def test_commands_without_replies(proxied: Proxied) -> None:
    with proxied.raw() as client:
        client.sendall(packed("CLIENT", "REPLY", "SKIP") + packed("SET", "a", "1")
                       + packed("GET", "a") + packed("CLIENT", "REPLY", "OFF")
                       + packed("SET", "b", "2") + packed("CLIENT", "REPLY", "ON")
                       + packed("GET", "b"))
        got = b""
        while not got.endswith(b"$1\r\n2\r\n"):
            got += client.recv(1000)
        assert got == b"$1\r\n1\r\n+OK\r\n$1\r\n2\r\n"
    assert proxied.wire.settle(BOUND)


# Ends ------------------------------------------------------------------------------------------


def test_quit_is_a_close(proxied: Proxied) -> None:
    with proxied.raw() as client:
        client.sendall(packed("PING") + packed("QUIT"))
        got = b""
        while data := client.recv(100):
            got += data
    assert got == b"+PONG\r\n+OK\r\n"
    assert proxied.words("close") == ["close"]


def test_what_a_dead_client_has_sent_is_done_all_the_same(proxied: Proxied) -> None:
    client = proxied.raw()
    client.sendall(packed("SET", "a", "1") + packed("INCR", "a"))
    client.close()
    assert proxied.wire.wait_closed(BOUND)
    assert proxied.admin.get("a") == "2"


def test_a_client_that_only_closes_its_sending_side(proxied: Proxied) -> None:
    with proxied.raw() as client:
        client.sendall(packed("SET", "a", "1") + packed("GET", "a"))
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(100):
            got += data
    assert got.startswith(b"+OK\r\n")
    assert proxied.admin.get("a") == "1"


def test_cut_refused_and_stalled(proxied: Proxied, aside: Any) -> None:
    client = proxied.connect(retry=None)
    client.ping()
    proxied.wire.cut()
    with pytest.raises(redis.ConnectionError):
        client.get("a")
    proxied.wire.refuse()
    with pytest.raises(redis.ConnectionError, match="refused"):
        proxied.connect(retry=None).get("a")
    proxied.wire.refuse(False)
    client = proxied.connect(retry=None)
    client.set("a", "1")
    proxied.wire.stall()
    asked = aside(lambda: client.incr("a"))
    assert proxied.admin.get("a") == "1"
    proxied.wire.stall(False)
    assert asked.result(BOUND) == 2


def test_no_server_there(loop: LoopThread, history: History) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wire = RedisWire(loop, history, "worker-1", ("127.0.0.1", port), database=1)
    with pytest.raises(redis.ConnectionError):
        redis.Redis("127.0.0.1", wire.start(), retry=None).ping()
    assert wire.wait_closed(BOUND)
    wire.close()


def test_clients_that_speak_something_else(proxied: Proxied) -> None:
    with proxied.raw() as client:
        client.sendall(b"*1\r\n:1\r\n")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert [e for e in proxied.history.events(h.NOTE) if "protocol" in e.text]


def test_large_values_and_many_clients(proxied: Proxied, aside: Any) -> None:
    client = proxied.connect()
    large = "x" * 10_000_000
    client.set("large", large)
    assert client.get("large") == large

    def talk(n: int) -> None:
        own = proxied.connect()
        for _ in range(50):
            own.rpush(f"list-{n}", "1")
        assert own.llen(f"list-{n}") == 50

    for done in [aside(talk, n) for n in range(8)]:
        done.result(BOUND)
    assert proxied.wire.settle(BOUND)
    assert len(proxied.steps("command", event=h.STEP_DELIVERED)) == 2 + 8 * 51
    assert threading.active_count() < 100
