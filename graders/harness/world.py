"""The outside world: where a task's work is done, and where each execution is counted.

A worker does the work of a task by `POST $WORK_URL` with the task as JSON, known by its `id` (or
`subtask_id`). 2xx means done, anything else failed. One HTTP server stands for the whole world of
a check; each process has an URL of its own, so it is known who called. An execution counts when
its call was accepted, whatever the worker writes into its database.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11

from graders.harness.history import (
    CALL_ANSWERED,
    CALL_ARRIVED,
    CALL_LOST,
    NOTE,
    TASK_ADDED,
    History,
)
from graders.harness.loop import LoopThread
from graders.harness.steps import Gated, Step

BODY_LIMIT = 1024 * 1024  # bytes of one call; a task is far smaller
FAILED_STATUS = 500

Policy = str | Callable[["Call"], str]  # "hold", "finish", "fail", "never", or one of them by call


@dataclass(eq=False)
class Call:
    """One execution of a task. Times are on the history's clock; None until then."""

    process: str
    task_id: str
    task: dict[str, Any]  # the JSON that was sent
    n: int  # the number of this call in its world, from 1
    arrived_at: float
    answered_at: float | None = None
    answer: int | None = None  # the HTTP status it was answered with
    decision: str | None = None  # "finish", "fail" or "never", as soon as that is decided
    lost: bool = False  # the caller hung up before an answer
    _exchange: _Exchange | None = field(default=None, repr=False)

    def finish(self) -> None:
        """Answer that the work is done. Nothing happens if it was decided upon or lost before."""
        self._decide("finish", 200, {"status": "done"})

    def fail(self, status: int = FAILED_STATUS, body: object = None) -> None:
        """Answer that the work has failed. As with `finish`, only the first decision counts."""
        self._decide("fail", status, {"error": "the work has failed"} if body is None else body)

    def never(self) -> None:
        """Leave it unanswered until its caller is gone."""
        self._decide("never", 0, None)

    @property
    def at_gate(self) -> bool:
        """Whether the call, or its answer, is held by a gate."""
        return self._exchange is not None and self._exchange.at_gate

    def _decide(self, decision: str, status: int, body: object) -> None:
        assert self._exchange is not None
        self._exchange.world.loop.call(self._exchange.decide, self, decision, status, body)


class World(Gated):
    """One check's outside world. Its methods are for check threads.

    `policy` says what happens to a call as it comes: "hold" (until the check answers it),
    "finish", "fail", "never", or a function of the call that returns one of these (it runs on the
    loop, so it must not block). Steps pass `gate` and holds as on a wire: before a "call" the call
    has come and does not count yet, before a "call-answer" its answer is decided and not sent.
    """

    def __init__(self, loop: LoopThread, history: History) -> None:
        super().__init__(loop, history)
        self.policy: Policy = "hold"
        self.port = 0
        self._calls: list[Call] = []
        self._handed_out: set[int] = set()
        self._came = threading.Condition()  # never held while the history is spoken to
        self._tokens: dict[str, str] = {}  # token -> process
        self._urls: dict[str, str] = {}  # process -> token
        self._exchanges: set[_Exchange] = set()
        self._server: asyncio.Server | None = None
        self._opened = 0
        self._labels: dict[str, str] = {}
        self._looked_at = 0
        self._stopped = False

    def start(self) -> int:
        """Listen on a free port of 127.0.0.1 and return it."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.loop.run(self._listen(sock), 30)
        return self.port

    def stop(self) -> None:
        """Stop listening and reset what is open. Safe to call twice."""
        self.loop.run(self._stop(), 30)

    def url(self, process: str) -> str:
        """The WORK_URL of a process, always the same one for the same name."""
        with self._came:
            token = self._urls.get(process)
            if token is None:
                token = self._urls[process] = secrets.token_hex(8)
                self._tokens[token] = process
        return f"http://127.0.0.1:{self.port}/{token}/work"

    @property
    def calls(self) -> list[Call]:
        """Every call that was accepted so far, in order."""
        with self._came:
            return list(self._calls)

    def next_call(
        self, task_id: str | None = None, process: str | None = None, timeout: float = 0
    ) -> Call | None:
        """The first call (for this task, by this process) that was not handed out before.

        One that came already is taken too, lost or answered ones included. None after `timeout`
        seconds.
        """
        deadline = time.monotonic() + timeout
        with self._came:
            while True:
                for call in self._calls:
                    if (call.n not in self._handed_out
                            and task_id in (None, call.task_id)
                            and process in (None, call.process)):
                        self._handed_out.add(call.n)
                        return call
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._came.wait(left)

    def release_all(self) -> None:
        """Finish every call that is held now. What comes later is the policy's business."""
        self.loop.call(self._release_all)

    def settle(self, timeout: float) -> bool:
        """Wait until what was sent is read and what was decided is answered.

        Calls that are held or never answered do not count. False after `timeout` seconds.
        """
        async def settled() -> None:
            for _ in range(6):  # what has reached the sockets is read first
                await asyncio.sleep(0)
            while any(exchange.busy for exchange in self._exchanges):
                await asyncio.sleep(0.001)

        try:
            self.loop.run(settled(), timeout)
        except TimeoutError:
            return False
        return True

    # On the loop -------------------------------------------------------------------------------

    async def _listen(self, sock: socket.socket) -> None:
        self._server = await self.loop.loop.create_server(
            lambda: _Exchange(self), sock=sock, backlog=256)

    async def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._server is not None:
            self._server.close()
        for exchange in list(self._exchanges):
            exchange.abort()
        await asyncio.sleep(0)

    def _release_all(self) -> None:
        for call in self.calls:
            if call.decision is None:
                call.finish()

    def _label(self, task_id: str) -> str:
        """How findings call a task ("T1"); "a task" if it was not added through the history."""
        seen = len(self.history)
        for event in self.history.events(TASK_ADDED, since=self._looked_at):
            self._labels[str(event.data.get("task"))] = str(event.data.get("label"))
        self._looked_at = seen
        return self._labels.get(task_id, "a task")

    def _step(self, exchange: _Exchange, kind: str, call: Call) -> Step:
        said = "call" if kind == "call" else "answer to call"
        words = f"{said} {self._label(call.task_id)}"
        step = Step(process=call.process, connection=exchange.number, kind=kind, words=words,
                    server="world", name=words, data={"call": call})
        self._arrived(step)
        return step

    def _accept(self, call: Call) -> None:
        with self._came:
            self._calls.append(call)
            call.n = len(self._calls)
            call.arrived_at = self.history.now()
            self._came.notify_all()
        self.history.add(CALL_ARRIVED, "world", f"{call.process} executes "
                         f"{self._label(call.task_id)}", call=call)

    def _what_to_do(self, call: Call) -> str:
        policy = self.policy
        if not isinstance(policy, str):
            try:
                policy = policy(call)
            except Exception as error:
                self.loop.errors.append(error)  # the check's own fault must not hang the worker
                policy = "hold"
        return policy


class _Exchange(asyncio.Protocol):
    """One HTTP connection: requests one after another, each answered before the next is read."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.number = 0
        self.transport: asyncio.Transport | None = None
        self.http = h11.Connection(h11.SERVER)
        self.call: Call | None = None
        self.process = ""
        self.why_not: str | None = None  # what is wrong with the request being read
        self.status = 400
        self.body = bytearray()
        self.gone = False
        self.waiting = False  # a request is being dealt with: read no further
        self.at_gate = False
        self.task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether something is under way that will end by itself."""
        if self.at_gate or self.http.their_state is h11.SEND_BODY:
            return True
        return (self.call is not None and self.call.decision in ("finish", "fail")
                and self.call.answered_at is None)

    # What the socket tells ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.world._opened += 1
        self.number = self.world._opened
        self.world._exchanges.add(self)
        if self.world._stopped:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if not self.gone:
            self.http.receive_data(data)
            self.read()

    def eof_received(self) -> bool:
        # Callers keep their side open until they have the answer, so this is a hang-up.
        self.hung_up()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.hung_up()
        self.world._exchanges.discard(self)

    def hung_up(self) -> None:
        """The caller is gone: a call without its answer is lost."""
        if self.gone:
            return
        self.gone = True
        call = self.call
        if call is not None and call.answered_at is None and call.n:
            call.lost = True
            self.world.history.add(
                CALL_LOST, "world", f"{call.process} hung up before an answer for "
                f"{self.world._label(call.task_id)}", call=call)
        if self.task is not None and self.at_gate:
            self.task.cancel()
            self.at_gate = False

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    # Requests ----------------------------------------------------------------------------------

    def read(self) -> None:
        """Take in what has come, up to the end of one request."""
        while not self.gone and not self.waiting:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError as error:
                self.why_not = f"it is not HTTP: {error}"
                self.refuse(error.error_status_hint)
                return
            if event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    self.send(h11.InformationalResponse(status_code=100, headers=[]))
                return
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                self.begin(event)
            elif isinstance(event, h11.Data):
                if len(self.body) + len(event.data) <= BODY_LIMIT:
                    self.body += event.data
                else:
                    self.why_not = self.why_not or f"its body is longer than {BODY_LIMIT} bytes"
            elif isinstance(event, h11.EndOfMessage):
                self.end()

    def begin(self, request: h11.Request) -> None:
        """A request has begun: where it goes, and by what method."""
        self.body.clear()
        self.call, self.why_not, self.status = None, None, 400
        target = request.target.decode("ascii", "backslashreplace")
        parts = target.partition("?")[0].split("/")
        self.process = self.world._tokens.get(parts[1], "") if len(parts) > 1 else ""
        if not self.process or parts[2:] not in (["work"], ["work", ""]):
            self.status = 404
            self.why_not = "it went to another address than $WORK_URL"
        elif request.method != b"POST":
            self.why_not = f"its method is {request.method.decode()}, not POST"

    def end(self) -> None:
        """A request is here as a whole."""
        task: Any = None
        if self.why_not is None:
            try:
                task = json.loads(bytes(self.body))
            except (ValueError, RecursionError):
                self.why_not = "its body is not JSON" if self.body else "it has no body"
        if self.why_not is None and not isinstance(task, dict):
            self.why_not = "its body is not a JSON object"
        task_id: Any = ""
        if self.why_not is None:
            task_id = task.get("id", task.get("subtask_id"))
            if isinstance(task_id, bool) or not isinstance(task_id, str | int) or task_id == "":
                self.why_not = 'its JSON has neither "id" nor "subtask_id"'
        if self.why_not is not None:
            self.refuse(self.status)
            return
        self.waiting = True
        now = self.world.history.now()
        call = Call(self.process, same_id(task_id), task, 0, now, _exchange=self)
        self.call = call
        step = self.world._step(self, "call", call)
        self.at_gates("before", step, lambda: self.accept(call, step))

    def refuse(self, status: int) -> None:
        """Answer what is no call."""
        who = self.process or "world"
        self.world.history.add(NOTE, who, "sent the outside world a request that it cannot take: "
                               f"{self.why_not}", malformed=True, why=self.why_not)
        self.respond(status, {"error": self.why_not})
        self.next_cycle()

    def accept(self, call: Call, step: Step) -> None:
        """From here on the execution counts."""
        step.sent_at = self.world.history.now()
        self.world._accept(call)
        self.world._answered(step, "accepted")
        self.at_gates("after", step, lambda: self.follow_policy(call, step))

    def follow_policy(self, call: Call, step: Step) -> None:
        """Do what the policy says, unless the check has decided meanwhile."""
        # Nothing is handed back for a call itself; its answer is a step of its own.
        self.world._delivered(step)
        if call.decision is not None:
            return
        what = self.world._what_to_do(call)
        if what == "finish":
            call.finish()
        elif what == "fail":
            call.fail()
        elif what == "never":
            call.never()

    def decide(self, call: Call, decision: str, status: int, body: object) -> None:
        """It is said what becomes of a call."""
        if call.decision is not None or call.lost or self.gone:
            return
        call.decision = decision
        if decision == "never":
            return
        step = self.world._step(self, "call-answer", call)
        self.at_gates("before", step, lambda: self.answer_ready(call, step, status, body))

    def answer_ready(self, call: Call, step: Step, status: int, body: object) -> None:
        """The answer is decided and has passed the first gate."""
        step.sent_at = self.world.history.now()
        self.world._answered(step, str(status))
        self.at_gates("after", step, lambda: self.answer(call, step, status, body))

    def answer(self, call: Call, step: Step, status: int, body: object) -> None:
        """Hand the answer to the caller."""
        call.answer = status
        call.answered_at = self.world.history.now()
        # Told before it is sent: what the worker does next comes after it in the history.
        self.world.history.add(CALL_ANSWERED, "world", f"answers {call.process} for "
                               f"{self.world._label(call.task_id)}: {status}", call=call)
        self.world._delivered(step)
        self.call = None
        self.respond(status, body)
        self.next_cycle()

    def at_gates(self, when: str, step: Step, then: Callable[[], None]) -> None:
        """Go on with `then` once the step has passed its gates; at once if there is none."""
        gates = self.world._gates(when, step)
        if not gates:
            then()
            return
        self.at_gate = True
        self.task = self.world.loop.loop.create_task(self.wait_at(gates, when, step, then))

    async def wait_at(self, gates: list[Any], when: str, step: Step,
                      then: Callable[[], None]) -> None:
        """Wait at the gates, and do as they say."""
        decision = await self.world._pass(gates, when, step)
        self.at_gate = False
        if self.gone:
            return
        if decision == "cut":
            self.abort()
        elif decision == "go":
            then()

    # Answers -----------------------------------------------------------------------------------

    def send(self, *events: Any) -> None:
        """Write HTTP events, in one piece."""
        data = b"".join(self.http.send(event) or b"" for event in events)
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def respond(self, status: int, body: object) -> None:
        """Write a whole response."""
        if self.gone or self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(raw)))]
        response = h11.Response(status_code=status, headers=headers,
                                reason=http.client.responses.get(status, ""))
        self.send(response, h11.Data(data=raw), h11.EndOfMessage())

    def next_cycle(self) -> None:
        """Read the next request of this connection, if it is kept open."""
        self.waiting = False
        if self.gone or self.transport is None:
            return
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self.read()
        elif self.http.our_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR, h11.DONE):
            self.transport.close()


def same_id(task_id: str | int) -> str:
    """The id as PostgreSQL writes it: some languages print a UUID in capitals, or in braces."""
    text = str(task_id)
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text
