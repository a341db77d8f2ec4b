"""The wire to Redis: what a unit of its protocol is, and what it says.

One command is one step, MULTI to EXEC together (at EXEC, since only there something happens).
Pushes, and messages to a subscriber, pass whenever they come.

With `database` a process lives in one numbered database without knowing it: the proxy selects it
on each upstream connection. A SELECT 0 of the process means that one too, FLUSHALL empties only
it, and what would reach beyond it (another SELECT, SWAPDB, SHUTDOWN …) is refused as by a server
that has no more databases, or does not allow it. Channels of publish and subscribe know no
databases: checks that use them need a server of their own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from graders.harness import resp
from graders.harness.connection import SENT, Connection, Unit
from graders.harness.history import History
from graders.harness.loop import LoopThread
from graders.harness.steps import Statement, Step, nameable
from graders.harness.wire import Wire

BLOCKING = {
    "BRPOP", "BLPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT",
    "WAITAOF",
}
# What clients say before their first word of their own; CLIENT with one of the second set.
_HANDSHAKE = {"HELLO", "AUTH", "SELECT", "READONLY"}
_HANDSHAKE_CLIENT = {"SETINFO", "SETNAME", "ID", "MAINT_NOTIFICATIONS", "NO-EVICT", "NO-TOUCH"}
_SUBSCRIBING = {
    "SUBSCRIBE": "channels", "PSUBSCRIBE": "patterns", "SSUBSCRIBE": "shards",
    "UNSUBSCRIBE": "channels", "PUNSUBSCRIBE": "patterns", "SUNSUBSCRIBE": "shards",
}
_MESSAGES = (b"message", b"pmessage", b"smessage")
_BEYOND = {"SWAPDB", "MOVE", "SHUTDOWN", "DEBUG", "REPLICAOF", "SLAVEOF", "FAILOVER", "MIGRATE"}

# What looks like an id of whatever sort, in a key or a value: eight characters or more, a digit
# among them.
_ID = re.compile(r"(?<![A-Za-z0-9_-])(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{8,}")

SHOWN = 80  # characters of one argument or reply in words
PARSED = 64 * 1024  # bytes of a reply that is looked into


@dataclass
class _Parts:
    """What a command is, and what answers are due."""

    name: str  # upper case
    arguments: list[bytes] = field(default_factory=list)
    replies: int = 1  # how many complete the answer
    blocks: bool = False
    local: bytes | None = None  # the proxy answers it itself
    reselect: bool = False  # the proxy has added a SELECT, whose answer it swallows
    subscribing: bool = False


class RedisConnection(Connection):
    """A client's connection to Redis."""

    wire: RedisWire

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.status = ""
        self.swallow = 0  # this many of the next replies answer the proxy's own commands
        self.greeting = True  # nothing but a handshake was said so far
        self.greeted = False  # its step was made
        self.multi: list[tuple[str, list[bytes]]] | None = None  # since MULTI
        self.replies_off = False
        self.skip_replies = 0
        self.monitoring = False
        self.subscribed: dict[str, set[bytes]] = {"channels": set(), "patterns": set(),
                                                  "shards": set()}

    def open(self) -> None:
        super().open()
        self.announce()

    def server_opened(self) -> None:
        own = bytearray()
        if self.wire.password is not None:
            user = [self.wire.user] if self.wire.user is not None else []
            own += _packed("AUTH", *user, self.wire.password)
            self.swallow += 1
        if self.wire.database is not None:
            own += _packed("SELECT", str(self.wire.database))
            self.swallow += 1
        if own and self.server is not None:
            self.server.write(bytes(own))

    # From the client ---------------------------------------------------------------------------

    def parse_client(self) -> None:
        buffer = self.client_buffer
        at = 0
        while at < len(buffer):
            try:
                found = resp.command(buffer, at)
            except resp.NotRespError as error:
                self.broken(f"it does not speak Redis's protocol: {error}")
                return
            if found is None:
                break
            words, end = found
            if words:
                self._enqueue(words, bytes(buffer[at:end]))
            else:
                self._unsent -= end - at  # an empty line, which the server passes over too
            at = end
        if at:
            del buffer[:at]

    def _enqueue(self, words: list[bytes], data: bytes) -> None:
        name = resp.text(words[0]).upper()
        self.queue.append(Unit("close" if name == "QUIT" else "command", data,
                               _Parts(name, words[1:])))

    # What a unit says --------------------------------------------------------------------------

    def make_step(self, unit: Unit) -> Step | None:
        parts: _Parts = unit.parts
        self._expect(unit, parts)
        if self.wire.database is not None:
            self._confine(unit, parts)
        words, name = said(parts.name, parts.arguments)
        if self.greeting and _is_handshake(parts):
            if self.greeted:
                return None
            self.greeted = True
            return self.step("connect", "connect", "connect")
        self.greeting = False
        if unit.kind == "close":
            return self.step("close", "close", "close")
        statement = _statement(parts.name, parts.arguments)
        if self.multi is not None:
            block, done = self.multi, parts.name in ("EXEC", "DISCARD")
            block.append((parts.name, parts.arguments))
            if not done:
                return None
            self.multi = None
            every = [said(*one) for one in block]
            return self.step("command", "; ".join(one for one, _ in every),
                             "; ".join(one for _, one in every),
                             statements=tuple(_statement(*one) for one in block[1:-1]))
        if parts.name == "MULTI":
            self.multi = [(parts.name, parts.arguments)]
            return None
        if parts.name == "PING":
            return self.step("check", words, name, statements=(statement,))
        return self.step("command", words, name, statements=(statement,))

    def _expect(self, unit: Unit, parts: _Parts) -> None:
        """How many replies will come."""
        what = [argument.upper() for argument in parts.arguments[:2]]
        if parts.name == "CLIENT" and what[:1] == [b"REPLY"] and len(what) == 2:
            self.replies_off = what[1] == b"OFF"
            if what[1] == b"SKIP":
                self.skip_replies = 2  # this one and the next
        if self.replies_off or self.skip_replies:
            unit.answers = False
            self.skip_replies = max(0, self.skip_replies - 1)
            return
        if self.multi is not None:
            return  # QUEUED, or EXEC's one array
        if parts.name in _SUBSCRIBING:
            parts.subscribing = True
            known = self.subscribed[_SUBSCRIBING[parts.name]]
            parts.replies = len(parts.arguments) or max(1, len(known))
            if "UNSUB" not in parts.name:
                known.update(parts.arguments)
            elif parts.arguments:
                known.difference_update(parts.arguments)
            else:
                known.clear()
        elif parts.name in ("RESET", "QUIT"):
            for known in self.subscribed.values():
                known.clear()
        elif parts.name == "MONITOR":
            self.monitoring = True
        parts.blocks = parts.name in BLOCKING or (
            parts.name in ("XREAD", "XREADGROUP")
            and any(argument.upper() == b"BLOCK" for argument in parts.arguments))

    def _confine(self, unit: Unit, parts: _Parts) -> None:
        """Keep the process within its database."""
        if parts.name == "SELECT":
            if parts.arguments == [b"0"]:
                self._rewrite(unit, _packed("SELECT", str(self.wire.database)))
            else:
                parts.local = b"-ERR DB index is out of range\r\n"
        elif parts.name == "FLUSHALL":
            self._rewrite(unit, _packed("FLUSHDB", *parts.arguments))
        elif parts.name in _BEYOND:
            parts.local = b"-ERR " + parts.name.encode() + b" is not allowed while grading\r\n"
        elif parts.name == "RESET":  # it selects database 0
            self._rewrite(unit, unit.data + _packed("SELECT", str(self.wire.database)))
            parts.reselect = True
        if parts.local is not None:
            self._rewrite(unit, b"")

    def _rewrite(self, unit: Unit, data: bytes) -> None:
        self._unsent += len(data) - len(unit.data)
        unit.data = data

    # From the server ---------------------------------------------------------------------------

    def parse_answer(self, unit: Unit) -> bool:
        parts: _Parts = unit.parts
        if parts.local is not None:
            self.answer += parts.local
            self._heard(unit, bytearray(parts.local))
            return True
        while (reply := self._next_reply()) is not None:
            if self._is_push(reply, parts):
                if self.answer:
                    self.answer += reply
                else:
                    self.to_client(bytes(reply))
                continue
            self.answer += reply
            parts.replies -= 1
            failed = reply[:1] == b"-"
            if parts.replies <= 0 or failed:
                self._heard(unit, reply)
                self.swallow += parts.reselect
                return True
        return False

    def _heard(self, unit: Unit, reply: bytearray) -> None:
        """Put down what the server said."""
        step = unit.step
        if step is None:
            return
        if len(reply) > PARSED:
            step.tags = (f"{len(reply)} bytes",)
            return
        try:
            got = resp.value(reply)
        except RecursionError:
            step.tags = ("deeply nested",)
            return
        if reply[:1] in (b"-", b"!"):
            step.error = str(got)
            return
        step.tags = (shown(got),)
        step.data["reply"] = got

    def pass_idle(self) -> None:
        while (reply := self._next_reply()) is not None:
            self.to_client(bytes(reply))

    def _next_reply(self) -> bytearray | None:
        """The next reply that is for the client, taken out of the buffer."""
        buffer = self.server_buffer
        while True:
            end = resp.reply_end(buffer, 0) if buffer else None
            if end is None:
                return None
            reply = buffer[:end]
            del buffer[:end]
            if not self.swallow:
                return reply
            if reply[:1] == b">":
                return reply
            self.swallow -= 1
            if reply[:1] == b"-":
                self.wire.loop.errors.append(
                    f"Redis refuses the grader's own command: {resp.text(reply).strip()}")

    def _is_push(self, reply: bytearray, parts: _Parts) -> bool:
        """Whether this is something else than an answer."""
        if reply[:1] == b">":
            if not parts.subscribing:
                return True
            kind = _first_word(reply)
            return kind is None or kind.upper() != parts.name.encode()
        if self.monitoring and reply[:1] == b"+" and reply[1:2].isdigit():
            return True
        if reply[:1] == b"*" and any(self.subscribed.values()):
            return _first_word(reply) in _MESSAGES
        return False


class RedisWire(Wire):
    """A proxy for one process's connections to Redis.

    `database` puts the process into that database (see above); `password` (and `user`) are what
    the proxy itself logs in with, where the server asks for it.
    """

    server = "redis"
    connection_type = RedisConnection

    def __init__(
        self, loop: LoopThread, history: History, process: str, upstream: tuple[str, int],
        database: int | None = None, *, password: str | None = None, user: str | None = None,
    ) -> None:
        super().__init__(loop, history, process, upstream)
        self.database = database
        self.password = password
        self.user = user

    def _blocks(self, unit: Unit) -> bool:
        return isinstance(unit.parts, _Parts) and unit.parts.blocks and unit.state == SENT


def said(name: str, arguments: list[bytes]) -> tuple[str, str]:
    """A command in words, on one line; and its name, without what differs from run to run."""
    words = [name]
    names = [name]
    for argument in arguments:
        word = " ".join(resp.text(argument).split())
        words.append(_short(word) if word else '""')
        # Made nameable before it is cut: a half of an id would be another in each run.
        named = _keys_of(word) if word[:1] in ("{", "[") else _short(_ID.sub("?", nameable(word)))
        names.append(named or '""')
    return " ".join(words), nameable(" ".join(names))


def shown(reply: Any) -> str:
    """A reply in a few words."""
    if reply is None:
        return "nothing"
    if isinstance(reply, str):
        return _short(" ".join(reply.split())) or '""'
    if isinstance(reply, list | dict) and len(reply) > 4:
        return f"{len(reply)} elements"
    if isinstance(reply, list):
        return _short("[" + ", ".join(shown(one) for one in reply) + "]")
    return _short(str(reply))


def _keys_of(text: str) -> str:
    """JSON by its keys: the values may differ from run to run."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text[:1] + "…"
    return "{" + ",".join(found) + "}" if isinstance(found, dict) else "[…]"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _statement(name: str, arguments: list[bytes]) -> Statement:
    return Statement(name, tuple(resp.text(argument) for argument in arguments))


def _is_handshake(parts: _Parts) -> bool:
    if parts.name == "CLIENT":
        return bool(parts.arguments) and resp.text(parts.arguments[0]).upper() in _HANDSHAKE_CLIENT
    return parts.name in _HANDSHAKE


def _first_word(reply: bytearray) -> bytes | None:
    """The first element of an array, if it is a string."""
    head = reply.find(resp.NEWLINE)
    if reply[head + 2:head + 3] != b"$":
        return None
    start = reply.find(resp.NEWLINE, head + 2)
    return bytes(reply[start + 2:start + 2 + int(reply[head + 3:start])])


def _packed(*words: str | bytes) -> bytes:
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in raw)
