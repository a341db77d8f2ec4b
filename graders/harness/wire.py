"""The wire: a proxy between one process and one server, on which every step can be stopped.

A step is one unit of conversation, parsed from the stream and never a TCP chunk. Units go on one
at a time: the next one is sent only after the answer to the one before it was delivered, also
when a client sent both at once. The two decoders (`wire_postgres`, `wire_redis`) say where a unit
ends, when its answer is whole, and what it is in words; `connection` moves the bytes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from graders.harness.connection import SENT, Connection, ConnectionInfo, Side, Unit
from graders.harness.history import History
from graders.harness.loop import LoopThread
from graders.harness.steps import Cut, Drop, Gate, Gated, Hold, Statement, Step

__all__ = [
    "Connection", "ConnectionInfo", "Cut", "Drop", "Gate", "Gated", "Hold", "Statement", "Step",
    "Unit", "Wire",
]


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
        self._backends: dict[int, None] = {}
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
        # Read without asking the loop, which may be waiting for a lock that the caller holds.
        return self._list()

    @property
    def backends(self) -> list[int]:
        """The pids of all PostgreSQL backends this process has had, those that ended included.

        A backend outlives its client while it waits for a lock: whoever kills a worker also
        terminates these.
        """
        return list(self._backends)

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

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run(work, 30)

    def _bound(self, port: int) -> socket.socket:
        # Told that it is TCP, asyncio sends small answers at once (TCP_NODELAY).
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
            lambda: Side(None, self, client=True), sock=sock, backlog=256)

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
        found = []
        for c in list(self._connections.values()):
            if c.announced and not c.disconnected:
                unit, queued = c.current, len(c.queue)
                found.append(ConnectionInfo(c.number, c.backend, c.status,
                                            unit is None and not queued, queued,
                                            unit.step if unit is not None else None))
        return found

    def _settled(self, connection: Connection, blocked_ok: bool) -> bool:
        if connection.closed or connection.current is None:
            return connection.closed or not connection.queue
        return blocked_ok and self._blocks(connection.current) and connection.current.state == SENT

    def _blocks(self, unit: Unit) -> bool:
        """Whether a unit waits at the server by design."""
        return False

    def _begin(self) -> None:
        self._said.clear()
        for connection in self._connections.values():
            unit = connection.current
            if unit is not None and unit.state == SENT and self._blocks(unit):
                unit.split = True

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
