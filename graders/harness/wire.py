"""The wire: a proxy between one process and one server, on which every step can be stopped.

A step is one unit of conversation, parsed from the stream and never a TCP chunk. Units go on one
at a time: the next one is sent only after the answer to the one before it was delivered, also
when a client sent both at once. The two decoders (`wire_postgres`, `wire_redis`) say where a unit
ends, when its answer is whole, and what it is in words; everything else is here.

What a process would not feel without a proxy it does not feel with one: bytes are neither lost nor
reordered, a client that dies after it has sent a message has sent it, and a server that goes away
is gone for the client too. Only a gate, a cut, a refusal or a stall changes what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graders.harness.history import (
    CONNECTED,
    DISCONNECTED,
    NOTE,
    STEP_ANSWERED,
    STEP_ARRIVED,
    STEP_DELIVERED,
    History,
)
from graders.harness.loop import LoopThread

# A longer answer is passed on while it still comes, save its end, so that one SELECT of a whole
# table does not fill the grader's memory. Its end (ReadyForQuery) is what clients act upon.
ANSWER_LIMIT = 4 * 1024 * 1024
# A client that sends more than this without waiting for answers is not read from for a while.
BACKLOG_LIMIT = 32 * 1024 * 1024

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds; closing then resets the connection


class Drop(Exception):
    """Raised by a gate: swallow this message, or this answer."""


class Cut(Exception):
    """Raised by a gate: cut the connection this step is on, now."""


@dataclass(frozen=True)
class Statement:
    """One SQL statement or Redis command as it was run. A null parameter is None."""

    sql: str
    params: tuple[str | None, ...] = ()


@dataclass(eq=False)
class Step:
    """One unit of conversation. Times are on the history's clock; None until then."""

    process: str  # "worker-1"
    connection: int  # a label only: pools rotate
    kind: str  # connect query prepare check command reply close call call-answer
    words: str  # one line: "UPDATE tasks SET status = $1 WHERE id = $2", "COMMIT"
    server: str = ""  # the lane it went to: "postgres", "redis" or "world"
    statements: tuple[Statement, ...] = ()
    name: str = ""  # what was said since BEGIN on its connection, without what varies by run
    occurrence: int = 0  # of that name in this process, from 1
    tags: tuple[str, ...] = ()  # the server's word: "SELECT 1", "UPDATE 0"
    error: str | None = None  # the server's error message
    sqlstate: str | None = None
    status: str = ""  # transaction status after it: "I" idle, "T" in one, "E" failed
    status_before: str = ""
    backend: int | None = None  # PostgreSQL: the backend's pid
    fate: str | None = None  # "dropped" or "cut", where a gate decided so
    data: dict[str, Any] = field(default_factory=dict)  # a world's step: call
    arrived_at: float | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    delivered_at: float | None = None

    @property
    def label(self) -> str:
        """Its name and, from the second on, which one: what tables and messages show."""
        return self.name if self.occurrence < 2 else f"{self.name} ({self.occurrence})"


class Gate:
    """Decides when a step goes on. Both methods run on the loop and may wait for long.

    Return to let it go on; raise Drop or Cut. A gate is asked about one step of a connection at a
    time; steps of other connections go their way meanwhile.
    """

    async def before(self, step: Step) -> None:
        """It has arrived and has not been sent to the server."""

    async def after(self, step: Step) -> None:
        """The server's whole answer is here and has not been delivered."""


class Hold(Gate):
    """Holds the steps that match until it is released; used from check threads.

    `times` is how many steps it catches; `steps` lists those caught so far.
    """

    def __init__(
        self, owner: Gated, match: Callable[[Step], bool], when: str, times: int | None
    ) -> None:
        if when not in ("before", "after"):
            raise ValueError(f"when is {when!r}, not 'before' or 'after'")
        self.when = when
        self.steps: list[Step] = []
        self._owner = owner
        self._match = match
        self._left = times
        self._reached = threading.Condition()
        self._handed_out = 0
        self._waiting: deque[tuple[Step, asyncio.Future[None]]] = deque()  # loop

    def wants(self, when: str, step: Step) -> bool:
        """Whether this step is to be held here (loop). Counts it if so: ask once."""
        if when != self.when or self._left == 0 or not self._match(step):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    async def before(self, step: Step) -> None:
        """Wait for the release (loop)."""
        await self._wait(step)

    async def after(self, step: Step) -> None:
        """Wait for the release (loop)."""
        await self._wait(step)

    def wait_reached(self, timeout: float) -> Step | None:
        """The next step held here that was not handed out before; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._reached:
            while len(self.steps) <= self._handed_out:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._reached.wait(left)
            self._handed_out += 1
            return self.steps[self._handed_out - 1]

    def release(self) -> None:
        """Let everything held go on, and hold nothing more."""
        self._owner.loop.call(self._open, None)

    def drop(self) -> None:
        """Swallow what is held (the message, or the answer), and hold nothing more."""
        self._owner.loop.call(self._open, Drop)

    def cut(self) -> None:
        """Cut the connections of what is held, and hold nothing more."""
        self._owner.loop.call(self._open, Cut)

    def next(self) -> None:
        """Let the first one held go on; the hold still catches what it may."""
        self._owner.loop.call(self._let_one_go)

    async def _wait(self, step: Step) -> None:
        going: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (step, going)
        self._waiting.append(entry)
        with self._reached:
            self.steps.append(step)
            self._reached.notify_all()
        try:
            await going
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _let_one_go(self) -> None:
        if self._waiting:
            _, going = self._waiting.popleft()
            if not going.done():
                going.set_result(None)

    def _open(self, decision: type[Exception] | None) -> None:
        self._left = 0
        self._owner._forget(self)
        while self._waiting:
            _, going = self._waiting.popleft()
            if going.done():
                continue
            if decision is None:
                going.set_result(None)
            else:
                going.set_exception(decision())


class Gated:
    """What wires and the world share: a gate, holds, and the names of steps."""

    def __init__(self, loop: LoopThread, history: History) -> None:
        self.loop = loop
        self.history = history
        self.gate: Gate | None = None
        self._holds: list[Hold] = []
        self._said: Counter[tuple[str, str]] = Counter()

    def hold(
        self, match: Callable[[Step], bool], when: str = "before", times: int | None = 1
    ) -> Hold:
        """Hold the next `times` steps (None: all) that match, before or after the server's word."""
        hold = Hold(self, match, when, times)
        self.loop.call(self._holds.append, hold)
        return hold

    def _forget(self, hold: Hold) -> None:
        if hold in self._holds:
            self._holds.remove(hold)

    def _gates(self, when: str, step: Step) -> list[Gate]:
        """The gates this step has to pass here; mostly none (loop)."""
        gates: list[Gate] = []
        for hold in list(self._holds):
            try:
                if hold.wants(when, step):
                    gates.append(hold)
            except Exception as error:
                self.loop.errors.append(error)  # the check's own fault must not hang the worker
        if self.gate is not None:
            gates.append(self.gate)
        return gates

    async def _pass(self, gates: list[Gate], when: str, step: Step) -> str:
        """Wait at each gate: "go", "drop" or "cut" (loop)."""
        try:
            for gate in gates:
                await (gate.before(step) if when == "before" else gate.after(step))
        except Drop:
            step.fate = "dropped"
            return "drop"
        except Cut:
            step.fate = "cut"
            return "cut"
        except Exception as error:
            self.loop.errors.append(error)  # a gate's own fault must not hang the worker
        return "go"

    def _arrived(self, step: Step) -> None:
        """Number its name and tell the history (loop)."""
        self._said[step.process, step.name] += 1
        step.occurrence = self._said[step.process, step.name]
        event = self.history.add(STEP_ARRIVED, step.process, step.words, step=step)
        step.arrived_at = event.at

    def _answered(self, step: Step, text: str) -> None:
        step.answered_at = self.history.now()
        self.history.add(STEP_ANSWERED, step.process, text, step=step)

    def _delivered(self, step: Step) -> None:
        step.delivered_at = self.history.now()
        self.history.add(STEP_DELIVERED, step.process, step.words, step=step)


_UUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_LITERAL = re.compile(r"'[^']*\d[^']*'")
_LONG_NUMBER = re.compile(r"\b\d{4,}\b")


def nameable(words: str) -> str:
    """Words without what differs from run to run: ids, dates, long numbers.

    Clients that put values into the SQL text (psql) get the same names in each run by this.
    """
    words = _UUID.sub("?", words)
    return _LONG_NUMBER.sub("?", _LITERAL.sub("'?'", words))


NEW, BEFORE, READY, SENT, AFTER, DELIVER, DELIVERING = range(7)


class Unit:
    """One unit on its way through a connection."""

    __slots__ = ("answers", "data", "kind", "parts", "state", "step")

    def __init__(self, kind: str, data: bytes, parts: Any = None, answers: bool = True) -> None:
        self.kind = kind
        self.data = data
        self.parts = parts  # what the decoder wants to know about it
        self.answers = answers  # the server will say something
        self.state = NEW
        self.step: Step | None = None


@dataclass(frozen=True)
class ConnectionInfo:
    """An open connection as a check sees it."""

    number: int
    backend: int | None
    status: str
    idle: bool  # no unit is under way
    step: Step | None  # the one under way


class _Side(asyncio.Protocol):
    """One of a connection's two sockets; it only hands on what asyncio tells it."""

    def __init__(self, connection: Connection | None, wire: Wire, client: bool) -> None:
        self.connection = connection
        self.wire = wire
        self.client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self.client:
            return
        if self.wire._refusing or self.wire._closed:
            reset(transport)
            return
        self.connection = self.wire._accept(transport)

    def data_received(self, data: bytes) -> None:
        if self.connection is not None:
            if self.client:
                self.connection.client_data(data)
            else:
                self.connection.server_data(data)

    def eof_received(self) -> bool:
        if self.connection is not None:
            if self.client:
                self.connection.client_eof()
            else:
                self.connection.server_eof()
        return True  # who closes what is the connection's business

    def connection_lost(self, exc: Exception | None) -> None:
        if self.connection is not None:
            if self.client:
                self.connection.client_lost()
            else:
                self.connection.server_lost()

    def pause_writing(self) -> None:
        if self.connection is not None and self.client:
            self.connection.client_full()

    def resume_writing(self) -> None:
        if self.connection is not None and self.client:
            self.connection.client_drained()


def reset(transport: asyncio.Transport) -> None:
    """Close a socket so that its peer sees a reset, not an orderly end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


class Connection:
    """A client's connection and the one to the server that belongs to it. All on the loop.

    A decoder subclasses it: `parse_client` cuts `client_buffer` into units, `make_step` says what
    a unit is in words, `parse_answer` moves what belongs to the answer from `server_buffer` to
    `answer` and tells when it is whole, `pass_idle` hands on what a server says unasked.
    """

    def __init__(self, wire: Wire, number: int, client: asyncio.Transport) -> None:
        self.wire = wire
        self.number = number
        self.client = client
        self.server: asyncio.Transport | None = None
        self.client_buffer = bytearray()
        self.server_buffer = bytearray()
        self.answer = bytearray()
        self.queue: deque[Unit] = deque()
        self.current: Unit | None = None
        self.backend: int | None = None
        self.status = "I"
        self.announced = False  # CONNECTED was told
        self.disconnected = False  # DISCONNECTED was told
        self.closed = False  # both sides are closed or being closed by us
        self._eof_from_client = False
        self._eof_to_server = False
        self._eof_from_server = False
        self._client_lost = False
        self._server_lost = False
        self._server_pending = True  # the connection to the server is neither made nor refused
        self._reading_paused = False
        self._unsent = 0  # bytes
        self._task: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()  # both sockets are closed

    # For decoders ------------------------------------------------------------------------------

    def parse_client(self) -> None:
        """Take whole units out of `client_buffer` and enqueue them."""
        raise NotImplementedError

    def make_step(self, unit: Unit) -> Step | None:
        """The step a unit is, or None for one that is none."""
        raise NotImplementedError

    def parse_answer(self, unit: Unit) -> bool:
        """Move bytes of the answer from `server_buffer` to `answer`; True once it is whole."""
        raise NotImplementedError

    def pass_idle(self) -> None:
        """Deliver what the server says while no unit waits for an answer."""
        self.to_client(bytes(self.server_buffer))
        self.server_buffer.clear()

    def ended(self, unit: Unit) -> bool:
        """The server has closed while this unit waited; whether that is its answer."""
        return unit.kind == "close"

    def finished(self, unit: Unit) -> None:
        """The unit's answer was delivered."""

    def step(self, kind: str, words: str, name: str, **more: Any) -> Step:
        """A step of this connection."""
        return Step(process=self.wire.process, connection=self.number, kind=kind, words=words,
                    server=self.wire.server, name=name, backend=self.backend,
                    status_before=self.status, **more)

    def announce(self) -> None:
        """Tell the history that a session begins."""
        if not self.announced:
            self.announced = True
            self.wire.history.add(CONNECTED, self.wire.process,
                                  f"opens connection {self.number}", connection=self.number,
                                  server=self.wire.server)

    def to_server(self, data: bytes) -> None:
        """Send bytes that belong to the unit under way, past the gates."""
        self._unsent -= len(data)
        if self.server is not None and not self.server.is_closing():
            self.server.write(data)

    def to_client(self, data: bytes) -> None:
        """Deliver bytes that are not held: parts of an answer, or what was not asked for."""
        if data and not self._client_lost and not self.client.is_closing():
            self.client.write(data)

    def broken(self, why: str) -> None:
        """The client speaks no protocol we know: say so, and reset its connection."""
        self.wire.history.add(NOTE, self.wire.process, f"on its connection to "
                              f"{self.wire.server}: {why}", connection=self.number)
        self.abort("client")

    # What the sockets tell ---------------------------------------------------------------------

    def open(self) -> None:
        """Connect to the server."""
        self.client.set_write_buffer_limits(high=0)
        self._opening = self.wire.loop.loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            transport, _ = await self.wire.loop.loop.create_connection(
                lambda: _Side(self, self.wire, client=False), *self.wire.upstream)
        except OSError:
            self._server_pending = False
            self.abort("server")
            return
        self._server_pending = False
        transport.set_write_buffer_limits(high=BACKLOG_LIMIT)
        if self.closed:
            reset(transport)
            self.server = transport
            return
        self.server = transport
        self.server_opened()
        self.pump()

    def server_opened(self) -> None:
        """The server can be spoken to; nothing was sent yet."""

    def client_data(self, data: bytes) -> None:
        if self.closed:
            return
        self.client_buffer += data
        self._unsent += len(data)
        if self._unsent > BACKLOG_LIMIT and len(self.queue) > 1 and not self._reading_paused:
            self._reading_paused = True
            self.client.pause_reading()
        if not self.wire._stalled:
            self.parse_client()
            self.pump()

    def client_eof(self) -> None:
        self._eof_from_client = True
        if not self.closed:
            self.pump()

    def client_lost(self) -> None:
        self._client_lost = True
        self._eof_from_client = True
        if not self.closed:
            self.pump()
        self._check_gone()

    def client_full(self) -> None:
        # The answer waits for its reader; so the server's next words wait too.
        if self.server is not None and not self.server.is_closing():
            self.server.pause_reading()

    def client_drained(self) -> None:
        if self.server is not None and not self.server.is_closing():
            self.server.resume_reading()
        if not self.closed:
            unit = self.current
            if unit is not None and unit.state == DELIVERING:
                self._delivered(unit)
            self.pump()

    def server_data(self, data: bytes) -> None:
        if self.closed:
            return
        self.server_buffer += data
        self.pump()

    def server_eof(self) -> None:
        self._eof_from_server = True
        if not self.closed:
            self.pump()

    def server_lost(self) -> None:
        self._server_lost = True
        self._eof_from_server = True
        if not self.closed:
            self.pump()
        self._check_gone()

    # The way of a unit -------------------------------------------------------------------------

    def pump(self) -> None:
        """Move on as far as it goes now. Called whenever something has happened."""
        while self._move():
            pass
        if not self.closed and not self.wire._stalled:
            self._ends()
        self.wire._look_again()

    def _move(self) -> bool:
        """One move; False when there is none to make now."""
        if self.closed or self.wire._stalled:
            return False
        unit = self.current
        if unit is None:
            if self.server_buffer:
                self.pass_idle()
            if not self.queue or self._eof_from_server:
                return False
            self.current = unit = self.queue.popleft()
            unit.step = self.make_step(unit)
            if unit.step is not None:
                self.wire._arrived(unit.step)
            unit.state = BEFORE
            self._at_gates("before", unit, READY)
            return True
        if unit.state in (BEFORE, READY) and self.server_buffer:
            self.pass_idle()
        if unit.state == READY:
            if self.server is None or self.server.is_closing():
                return False
            unit.state = SENT
            if unit.step is not None:
                unit.step.sent_at = self.wire.history.now()
            self.to_server(unit.data)
            unit.data = b""
            return True
        if unit.state == SENT:
            if unit.answers and not self.parse_answer(unit):
                if len(self.answer) > ANSWER_LIMIT:
                    self.to_client(bytes(self.answer))
                    self.answer.clear()
                if not (self._eof_from_server and self.ended(unit)):
                    return False
            unit.state = AFTER
            if unit.step is not None:
                unit.step.status = self.status
                unit.step.backend = self.backend
                self.answered(unit)
            self._at_gates("after", unit, DELIVER)
            return True
        if unit.state == DELIVER:
            unit.state = DELIVERING
            self.to_client(bytes(self.answer))
            self.answer.clear()
            if not self.client.is_closing() and self.client.get_write_buffer_size():
                return False  # delivered once the client has taken it
            self._delivered(unit)
            return True
        return False

    def answered(self, unit: Unit) -> None:
        """Tell the history what the server said."""
        assert unit.step is not None
        said = unit.step.error if unit.step.error is not None else ", ".join(unit.step.tags)
        self.wire._answered(unit.step, said or "done")

    def _at_gates(self, when: str, unit: Unit, then: int) -> None:
        step = unit.step
        gates = self.wire._gates(when, step) if step is not None else []
        if not gates:
            unit.state = then
            return
        self._task = self.wire.loop.loop.create_task(self._wait_at(gates, when, unit, then))

    async def _wait_at(self, gates: list[Gate], when: str, unit: Unit, then: int) -> None:
        assert unit.step is not None
        decision = await self.wire._pass(gates, when, unit.step)
        if self.closed or self.current is not unit:
            return
        if decision == "cut":
            self.abort("check")
        elif decision == "drop":
            if unit.data:
                self._unsent -= len(unit.data)
            self.answer.clear()
            self.current = None
            self.finished(unit)
        else:
            unit.state = then
        self.pump()

    def _delivered(self, unit: Unit) -> None:
        self.current = None
        if unit.step is not None and not self._eof_from_client:
            self.wire._delivered(unit.step)
        self.finished(unit)
        if self._reading_paused and not self.queue:
            self._reading_paused = False
            self.client.resume_reading()

    # How it ends -------------------------------------------------------------------------------

    def _ends(self) -> None:
        """Hand an end of stream on to the other side, once all before it was handed on."""
        unit = self.current
        if self._eof_from_client and not self.queue:
            self._tell_disconnected("client")
            if (unit is None or unit.state >= SENT) and not self._eof_to_server \
                    and self.server is not None:
                # As the kernel would: at once, also while the server works at an answer, so that
                # a dead client's BRPOP takes no job.
                self._eof_to_server = True
                if self.server.can_write_eof() and not self.server.is_closing():
                    self.server.write_eof()
        if self._eof_from_server:
            self._tell_disconnected("server")
            if unit is None or unit.state < AFTER:
                self.to_client(bytes(self.answer + self.server_buffer))
                self._close()

    def _tell_disconnected(self, by: str) -> None:
        if self.disconnected:
            return
        self.disconnected = True
        if self.announced:
            who = {"client": "closes", "server": "loses", "check": "is cut off from"}[by]
            self.wire.history.add(DISCONNECTED, self.wire.process,
                                  f"{who} connection {self.number}", connection=self.number,
                                  by=by, server=self.wire.server)

    def _close(self) -> None:
        """Close both sides in order: what was written is still sent."""
        self.closed = True
        self._cancel_gate()
        self.client.close()
        if self.server is not None:
            self.server.close()

    def abort(self, by: str) -> None:
        """Reset both sides; what was not delivered is lost."""
        self._tell_disconnected(by)
        if self.current is not None and self.current.step is not None and by == "check":
            self.current.step.fate = "cut"
        self.closed = True
        self._cancel_gate()
        reset(self.client)
        if self.server is not None:
            reset(self.server)
        self._check_gone()

    def _cancel_gate(self) -> None:
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _check_gone(self) -> None:
        server_gone = self._server_lost or (self.server is None and not self._server_pending)
        if self._client_lost and server_gone:
            self.gone.set()
            self.wire._connections.pop(self.number, None)
            self.wire._look_again()


class Wire(Gated):
    """A proxy for one process and one server. Methods are for check threads.

    `upstream` is the server's (host, port). Events carry `process` as their lane.
    """

    server = "server"  # the lane steps go to
    connection_type: type[Connection] = Connection

    def __init__(
        self, loop: LoopThread, history: History, process: str, upstream: tuple[str, int]
    ) -> None:
        super().__init__(loop, history)
        self.process = process
        self.upstream = upstream
        self.port = 0
        self._server: asyncio.Server | None = None
        self._parked: socket.socket | None = None
        self._connections: dict[int, Connection] = {}
        self._opened = 0
        self._refusing = False
        self._stalled = False
        self._closed = False
        self._lookers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def start(self) -> int:
        """Listen on a free port of 127.0.0.1 and return it."""
        sock = self._bound(0)
        self.port = sock.getsockname()[1]
        self.loop.run(self._listen(sock), 30)
        return self.port

    def cut(self, connection: int | None = None) -> None:
        """Reset all connections, or one, at both ends; returns when their sockets are closed."""
        self._do(self._cut(connection))

    def refuse(self, on: bool = True) -> None:
        """Refuse new connections, as if no server were there, or accept them again."""
        self._do(self._refuse(on))

    def stall(self, on: bool = True) -> None:
        """Hand nothing on in either direction, or go on. Connections stay open."""
        self.loop.call(self._stall, on)

    def close(self) -> None:
        """Reset every connection and stop listening. Safe to call twice."""
        self._do(self._close())

    @property
    def connections(self) -> list[ConnectionInfo]:
        """The open connections, oldest first."""
        return self.loop.call(self._list)

    def settle(self, timeout: float, blocked_ok: bool = False) -> bool:
        """Wait until no unit is under way: each sent one was answered and delivered.

        With `blocked_ok` a Redis command that blocks by design (BRPOP) does not count.
        Returns False after `timeout` seconds.
        """
        return self._wait(lambda: all(self._settled(c, blocked_ok)
                                      for c in self._connections.values()), timeout)

    def wait_closed(self, timeout: float) -> bool:
        """Wait until no connection is left and the server has closed its ends too.

        After a process has ended, all it had sent is in the history once this returns True.
        """
        return self._wait(lambda: not self._connections, timeout)

    def begin(self) -> None:
        """A scenario begins: names count anew, and an answer that is outstanding now (a blocked
        BRPOP) is a step of its own when it comes."""
        self.loop.call(self._begin)

    # On the loop -------------------------------------------------------------------------------

    def _do(self, work: Any) -> None:
        self.loop.run(work, 30)

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Two sockets on one port: one that listens, and while we refuse, one that does not, so
        # that nobody else gets the port and the kernel itself refuses.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return sock

    async def _listen(self, sock: socket.socket) -> None:
        self._server = await self.loop.loop.create_server(
            lambda: _Side(None, self, client=True), sock=sock, backlog=256)

    async def _refuse(self, on: bool) -> None:
        if self._closed or on == self._refusing:
            return
        if on:
            parked = self._bound(self.port)
            self._refusing = True
            assert self._server is not None
            self._server.close()
            self._parked = parked
        else:
            self._refusing = False
            sock, self._parked = self._parked, None
            assert sock is not None
            await self._listen(sock)

    def _stall(self, on: bool) -> None:
        self._stalled = on
        if not on:
            for connection in list(self._connections.values()):
                if not connection.closed:
                    connection.parse_client()
                    connection.pump()

    async def _cut(self, number: int | None) -> None:
        chosen = [c for c in self._connections.values() if number is None or c.number == number]
        for connection in chosen:
            connection.abort("check")
        for connection in chosen:
            await connection.gone.wait()

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        if self._parked is not None:
            self._parked.close()
        await self._cut(None)
        self._look_again()

    def _accept(self, transport: asyncio.Transport) -> Connection:
        self._opened += 1
        connection = self.connection_type(self, self._opened, transport)
        self._connections[connection.number] = connection
        connection.open()
        return connection

    def _list(self) -> list[ConnectionInfo]:
        return [ConnectionInfo(c.number, c.backend, c.status, c.current is None and not c.queue,
                               c.current.step if c.current is not None else None)
                for c in self._connections.values() if c.announced and not c.disconnected]

    def _settled(self, connection: Connection, blocked_ok: bool) -> bool:
        if connection.closed or connection.current is None:
            return connection.closed or not connection.queue
        return blocked_ok and self._blocks(connection.current) and connection.current.state == SENT

    def _blocks(self, unit: Unit) -> bool:
        return False

    def _begin(self) -> None:
        self._said.clear()

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        try:
            self.loop.run(self._look(done), timeout)
        except TimeoutError:
            return False
        return True

    async def _look(self, done: Callable[[], bool]) -> None:
        # Let what has already reached our sockets be read first: a turn of the loop each for
        # accepting, for reading, and for what these schedule.
        for _ in range(6):
            await asyncio.sleep(0)
        while not done():
            looker = self.loop.loop.create_future()
            entry = (done, looker)
            self._lookers.append(entry)
            try:
                await looker
            finally:
                if entry in self._lookers:
                    self._lookers.remove(entry)

    def _look_again(self) -> None:
        for done, looker in self._lookers:
            if not looker.done() and done():
                looker.set_result(None)
