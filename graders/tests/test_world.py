"""The outside world, called by HTTP clients as workers are."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from graders.harness import history as h
from graders.harness.history import History
from graders.harness.loop import LoopThread
from graders.harness.wire import Cut, Drop, Gate, Step
from graders.harness.world import BODY_LIMIT, Call, World, same_id

BOUND = 20.0  # seconds; met only when something is broken


@pytest.fixture
def world(loop: LoopThread, history: History) -> Iterator[World]:
    world = World(loop, history)
    world.start()
    yield world
    world.stop()


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in a thread beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def post(url: str, body: Any, method: str = "POST") -> int:
    """What a worker does; the HTTP status."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=raw, method=method)
    try:
        with urllib.request.urlopen(request, timeout=BOUND) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def steps(history: History, event: str = h.STEP_ARRIVED) -> list[tuple[str, str]]:
    return [(e.data["step"].kind, e.data["step"].words) for e in history.events(event)]


def test_a_call_is_held_until_it_is_answered(world: World, history: History, aside: Any) -> None:
    history.add(h.TASK_ADDED, "grader", "T1", task="a-1", label="T1", row={})
    asked = aside(post, world.url("worker-1"), {"id": "a-1", "title": "One"})
    call = world.next_call("a-1", "worker-1", timeout=BOUND)
    assert call is not None
    assert (call.process, call.task_id, call.n) == ("worker-1", "a-1", 1)
    assert call.task == {"id": "a-1", "title": "One"}
    assert (call.answer, call.answered_at, call.lost) == (None, None, False)
    assert not asked.done()
    assert world.settle(BOUND)
    call.finish()
    assert asked.result(BOUND) == 200
    assert call.answer == 200
    assert call.arrived_at <= call.answered_at
    call.fail()  # the first decision counts
    assert call.answer == 200
    assert steps(history) == [("call", "call T1"), ("call-answer", "answer to call T1")]
    kinds = [e.kind for e in history.events(h.CALL_ARRIVED, h.CALL_ANSWERED, h.CALL_LOST)]
    assert kinds == [h.CALL_ARRIVED, h.CALL_ANSWERED]


def test_a_failed_call(world: World, aside: Any) -> None:
    asked = aside(post, world.url("worker-1"), {"id": "a"})
    call = world.next_call(timeout=BOUND)
    call.fail(503, {"why": "closed today"})
    assert asked.result(BOUND) == 503
    assert call.answer == 503


def test_calls_are_handed_out_once_and_by_who_and_what(world: World, aside: Any) -> None:
    world.policy = "finish"
    for process, task in (("w1", "a"), ("w2", "b"), ("w1", "b"), ("w2", "a")):
        assert post(world.url(process), {"id": task}) == 200
    assert world.next_call("b").process == "w2"
    assert world.next_call(process="w2").task_id == "a"
    assert world.next_call("a", "w1").n == 1
    assert world.next_call("b", "w2") is None
    assert world.next_call().n == 3
    assert world.next_call(timeout=0.02) is None
    assert [c.n for c in world.calls] == [1, 2, 3, 4]
    assert world.url("w1") == world.url("w1") != world.url("w2")
    waits = aside(world.next_call, "c", None, BOUND)
    post(world.url("w1"), {"id": "c"})
    assert waits.result(BOUND).task_id == "c"


def test_policies(world: World) -> None:
    url = world.url("worker-1")
    world.policy = "fail"
    assert post(url, {"subtask_id": "s-1"}) == 500
    world.policy = lambda call: "fail" if call.task["title"].startswith("fail") else "finish"
    assert post(url, {"id": "1", "title": "fail this"}) == 500
    assert post(url, {"id": 2, "title": "do this"}) == 200
    assert [c.task_id for c in world.calls] == ["s-1", "1", "2"]
    assert [c.decision for c in world.calls] == ["fail", "fail", "finish"]


def test_a_policy_that_breaks_is_the_kits_fault(world: World, aside: Any) -> None:
    world.policy = lambda call: call.task["no such key"]
    asked = aside(post, world.url("worker-1"), {"id": "1"})
    world.next_call(timeout=BOUND).finish()
    assert asked.result(BOUND) == 200
    assert isinstance(world.loop.errors.pop(), KeyError)


def test_release_all(world: World, aside: Any) -> None:
    asked = [aside(post, world.url("w"), {"id": n}) for n in range(3)]
    held = [world.next_call(timeout=BOUND) for _ in range(3)]
    held[0].fail()
    world.release_all()
    assert sorted(one.result(BOUND) for one in asked) == [200, 200, 500]


def caller(url: str) -> subprocess.Popen[bytes]:
    code = ("import sys, urllib.request\n"
            "urllib.request.urlopen(sys.argv[1], data=b'{\"id\": \"a\"}')\n")
    return subprocess.Popen([sys.executable, "-c", code, url])


@pytest.mark.parametrize("never", [True, False])
def test_a_caller_that_dies_loses_its_call(world: World, history: History, never: bool) -> None:
    worker = caller(world.url("worker-1"))
    call = world.next_call(timeout=BOUND)
    if never:
        call.never()
        assert world.settle(BOUND)
    worker.kill()
    worker.wait()
    assert history.wait(lambda e: e.kind == h.CALL_LOST and e.data["call"] is call, BOUND)
    assert call.lost
    call.finish()  # nobody hears it
    assert call.answer is None
    assert len(world.calls) == 1


@pytest.mark.parametrize(("body", "method", "why"), [
    (b"not json", "POST", "its body is not JSON"),
    (b"", "POST", "it has no body"),
    ([1], "POST", "its body is not a JSON object"),
    ({"title": "x"}, "POST", 'its JSON has neither "id" nor "subtask_id"'),
    ({"id": ""}, "POST", 'its JSON has neither "id" nor "subtask_id"'),
    ({"id": None}, "POST", 'its JSON has neither "id" nor "subtask_id"'),
    ({"id": True}, "POST", 'its JSON has neither "id" nor "subtask_id"'),
    ({"id": "a"}, "PUT", "its method is PUT, not POST"),
    (b"[" * 100_000, "POST", "its body is not JSON"),
    (b" " * (BODY_LIMIT + 1), "POST", f"its body is longer than {BODY_LIMIT} bytes"),
])
def test_what_is_no_call_is_refused_and_told(
    world: World, history: History, body: Any, method: str, why: str
) -> None:
    assert post(world.url("worker-1"), body, method) == 400
    (note,) = history.events(h.NOTE, who="worker-1")
    assert note.data["why"] == why
    assert world.calls == []


def test_another_address_is_not_found(world: World, history: History) -> None:
    assert post(world.url("worker-1") + "/more", {"id": "a"}) == 404
    assert post(f"http://127.0.0.1:{world.port}/guessed/work", {"id": "a"}) == 404
    assert post(f"http://127.0.0.1:{world.port}/", {"id": "a"}) == 404
    assert len(history.events(h.NOTE)) == 3


def raw(world: World, *pieces: bytes) -> bytes:
    """Send pieces as they are, and read until the other side closes or has answered enough."""
    with socket.create_connection(("127.0.0.1", world.port), timeout=BOUND) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        got = b""
        while data := client.recv(10_000):
            got += data
    return got


def test_bytes_one_at_a_time_and_pipelined(world: World) -> None:
    world.policy = "finish"
    path = urlsplit(world.url("w")).path.encode()

    def request(n: int, *headers: bytes) -> bytes:
        lines = [b"POST %b HTTP/1.1" % path, b"Host: x", b"Content-Length: 8", *headers, b"", b""]
        return b"\r\n".join(lines) + b'{"id":%d}' % n

    text = request(1) + request(2) + request(3, b"Connection: close")
    for size in (1, 7, 10_000):
        got = raw(world, *(text[at:at + size] for at in range(0, len(text), size)))
        assert got.count(b"HTTP/1.1 200") == 3
    assert [c.task_id for c in world.calls] == ["1", "2", "3"] * 3


def test_keep_alive_and_chunked_bodies(world: World) -> None:
    world.policy = "finish"
    client = http.client.HTTPConnection("127.0.0.1", world.port, timeout=BOUND)
    path = urlsplit(world.url("w")).path
    for n in range(3):
        client.request("POST", path, body=iter([b'{"id":', b'"%d"}' % n]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"status": "done"})
    client.request("GET", path)
    answer = client.getresponse()
    assert answer.status == 400
    answer.read()
    client.request("POST", path, body=b'{"id": "after"}')
    assert client.getresponse().status == 200
    client.close()
    assert [c.task_id for c in world.calls] == ["0", "1", "2", "after"]
    assert {e.data["step"].connection for e in world.history.events(h.STEP_ARRIVED)} == {1}


def test_what_is_not_http(world: World, history: History) -> None:
    assert b"HTTP/1.1 400" in raw(world, b"\x00\x01\x02 nonsense\r\n\r\n")
    assert b"HTTP/1.1 400" in raw(world, b"POST / HTTP/1.1\r\n\r\n")  # without a Host
    assert len(history.events(h.NOTE)) == 2
    with socket.create_connection(("127.0.0.1", world.port)):
        pass  # says nothing


def test_a_body_announced_with_expect(world: World) -> None:
    world.policy = "finish"
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    done = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*",
         "-H", "Expect: 100-continue", "-d", '{"id": "a"}', world.url("w")],
        capture_output=True, text=True, timeout=BOUND)
    assert done.stdout == "200", done.stderr


# Steps -----------------------------------------------------------------------------------------


def test_a_call_held_before_it_counts(world: World, aside: Any) -> None:
    hold = world.hold(lambda s: s.kind == "call")
    asked = aside(post, world.url("w"), {"id": "a"})
    step = hold.wait_reached(BOUND)
    assert step.process == "w"
    assert world.calls == []
    assert not world.settle(0.05)
    hold.release()
    world.next_call(timeout=BOUND).finish()
    assert asked.result(BOUND) == 200


def test_an_answer_held_before_it_is_sent(world: World, aside: Any) -> None:
    world.policy = "finish"
    hold = world.hold(lambda s: s.kind == "call-answer")
    asked = aside(post, world.url("w"), {"id": "a"})
    step = hold.wait_reached(BOUND)
    call = step.data["call"]
    assert (call.decision, call.answered_at) == ("finish", None)
    assert not asked.done()
    hold.release()
    assert asked.result(BOUND) == 200


def test_a_caller_that_dies_while_it_is_held_before_it_counts(
    world: World, history: History
) -> None:
    hold = world.hold(lambda s: s.kind == "call")
    worker = caller(world.url("w"))
    assert hold.wait_reached(BOUND)
    worker.kill()
    worker.wait()
    assert world.settle(BOUND)
    hold.release()
    assert world.calls == []
    assert history.events(h.CALL_LOST) == []


class Decider(Gate):
    """Decides about one kind of step."""

    def __init__(self, kind: str, when: str, decision: type[Exception]) -> None:
        self.kind, self.when, self.decision = kind, when, decision

    async def before(self, step: Step) -> None:
        await asyncio.sleep(0)
        if (step.kind, self.when) == (self.kind, "before"):
            raise self.decision

    async def after(self, step: Step) -> None:
        await asyncio.sleep(0)
        if (step.kind, self.when) == (self.kind, "after"):
            raise self.decision


@pytest.mark.parametrize(("kind", "when", "counted"), [
    ("call", "before", 0), ("call", "after", 1), ("call-answer", "before", 1),
    ("call-answer", "after", 1)])
def test_a_gate_cuts(world: World, aside: Any, kind: str, when: str, counted: int) -> None:
    world.policy = "finish"
    world.gate = Decider(kind, when, Cut)
    with pytest.raises((ConnectionError, http.client.HTTPException, urllib.error.URLError)):
        post(world.url("w"), {"id": "a"})
    assert world.settle(BOUND)
    assert len(world.calls) == counted
    assert [c.lost for c in world.calls] == [True] * counted


def test_a_gate_drops_an_answer(world: World, history: History, aside: Any) -> None:
    world.policy = "finish"
    world.gate = Decider("call-answer", "before", Drop)
    worker = caller(world.url("w"))
    assert history.wait(lambda e: e.data.get("fate") == "dropped", BOUND)
    (call,) = world.calls
    assert call.answered_at is None
    worker.kill()
    worker.wait()
    assert history.wait(lambda e: e.kind == h.CALL_LOST, BOUND)


def test_many_callers_at_once(world: World, history: History, aside: Any) -> None:
    world.policy = "finish"

    def work(n: int) -> None:
        for task in range(20):
            assert post(world.url(f"w{n}"), {"id": f"{n}-{task}"}) == 200

    for done in [aside(work, n) for n in range(4)]:
        done.result(BOUND)
    assert len({c.task_id for c in world.calls}) == 80
    assert [c.n for c in world.calls] == list(range(1, 81))
    assert all(c.task_id.startswith(c.process[1:]) for c in world.calls)
    assert len(history.events(h.CALL_ANSWERED)) == 80


def test_a_check_that_waits_for_the_history_finds_the_call(
    world: World, history: History, aside: Any
) -> None:
    """The call is there before its event: a check may ask for it within `wait_until`."""
    asked = aside(post, world.url("w"), {"id": "a"})
    call = history.wait_until(lambda _: world.next_call(timeout=0), BOUND)
    assert isinstance(call, Call)
    call.finish()
    assert asked.result(BOUND) == 200


def test_an_id_in_capitals_is_the_same_task() -> None:
    lower = "3f0c1d52-1b1e-4a7e-9a54-0c5a6f2f8b11"
    assert same_id(lower.upper()) == same_id("{" + lower + "}") == lower
    assert same_id("job-7-0") == "job-7-0"
    assert same_id(7) == "7"
