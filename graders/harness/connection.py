"""One connection through a wire: a client's socket, a server's socket, and the units between them.

What a process would not feel without a proxy it does not feel with one: bytes are neither lost nor
reordered, a client that dies after it has sent a message has sent it, and a server that goes away
is gone for the client too. Only a gate, a cut, a refusal or a stall changes what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graders.harness.history import CONNECTED, DISCONNECTED, NOTE
from graders.harness.steps import Gate, Step

if TYPE_CHECKING:
    from graders.harness.wire import Wire

# A longer answer is passed on while it still comes, save its end, so that one SELECT of a whole
# table does not fill the grader's memory. Its end (ReadyForQuery) is what clients act upon.
ANSWER_LIMIT = 4 * 1024 * 1024
# A client that sends more than this without waiting for answers is not read from for a while.
BACKLOG_LIMIT = 32 * 1024 * 1024

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds; closing then resets the connection

# Where a unit is. REPLY and REPLIED are only for an answer that is a step of its own.
NEW, BEFORE, READY, SENT, REPLY, REPLIED, AFTER, DELIVER, DELIVERING = range(9)


class Unit:
    """One unit on its way through a connection."""

    __slots__ = ("answers", "data", "kind", "parts", "split", "state", "step")

    def __init__(self, kind: str, data: bytes, parts: Any = None, answers: bool = True) -> None:
        self.kind = kind
        self.data = data
        self.parts = parts  # what the decoder wants to know about it
        self.answers = answers  # the server will say something
        self.state = NEW
        self.step: Step | None = None
        self.split = False  # its answer is a step of its own


@dataclass(frozen=True)
class ConnectionInfo:
    """An open connection as a check sees it."""

    number: int
    backend: int | None
    status: str
    idle: bool  # no unit is under way
    queued: int  # units that wait behind the one under way
    step: Step | None  # the one under way


class Side(asyncio.Protocol):
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

    def rest(self) -> bool:
        """The client has ended: enqueue what it left without an end; whether there was any."""
        return False

    def reply_step(self, asked: Step) -> Step:
        """The step that an answer is which was outstanding when a scenario began."""
        step = self.step("reply", f"reply to {asked.words}", f"reply to {asked.name}",
                         statements=asked.statements, tags=asked.tags, error=asked.error)
        step.data.update(asked.data)
        return step

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
                lambda: Side(self, self.wire, client=False), *self.wire.upstream)
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
            if self._eof_from_client and not self.queue and self.rest():
                self.pump()
                return
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
            try:
                unit.step = self.make_step(unit)
            except (ValueError, IndexError, struct.error):
                # The server will say what is wrong with it.
                words = "(a message that cannot be read)"
                unit.step = self.step("query", words, words)
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
            if unit.split and unit.step is not None:
                asked = unit.step
                unit.step = self.reply_step(asked)
                self.wire._arrived(unit.step)
                unit.state = REPLY
                self._at_gates("before", unit, REPLIED)
            else:
                unit.state = REPLIED
            return True
        if unit.state == REPLIED:
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
            if unit is None or unit.state <= SENT:
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
