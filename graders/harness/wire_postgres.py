"""The wire to PostgreSQL: what a unit of its protocol is, and what it says.

Version 3 of the frontend/backend protocol, as its chapter of PostgreSQL's manual describes it
("Message Flow", "Message Formats"). Encryption is declined on the client's behalf, so that a step
can be read; any way of authentication passes through.
"""

from __future__ import annotations

import datetime
import re
import struct
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from graders.harness import sql as sql_text
from graders.harness.connection import SENT, Connection, Unit
from graders.harness.history import NOTE
from graders.harness.steps import Statement, Step, nameable
from graders.harness.wire import Wire

SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102

# More of a turn than this is told by its beginning and its end, so that names stay names.
TURN_LIMIT = 12

# A pool asks so whether a connection is alive. The empty query has no words at all.
_CHECKS = re.compile(r"select 1(?: as \w+)?", re.IGNORECASE)
_SQL_PREPARE = re.compile(r"prepare\s+(\"[^\"]+\"|\w+)\s*(?:\([^)]*\))?\s+as\s+(.*)", re.I | re.S)
_SQL_EXECUTE = re.compile(r"execute\s+(\"[^\"]+\"|\w+)\s*(?:\((.*)\))?", re.I | re.S)
_DEALLOCATE = re.compile(r"deallocate\b", re.IGNORECASE)

_INT32 = struct.Struct(">i")
_UINT32 = struct.Struct(">I")
_INT16 = struct.Struct(">h")


@dataclass
class _Prepared:
    sql: str
    oids: list[int] = field(default_factory=list)


@dataclass
class _Parts:
    """What a unit of the extended protocol was made of."""

    messages: list[tuple[int, bytes]]  # (type, body)
    sync: bool  # it ends with Sync (or a simple Query), not with Flush
    expected: deque[str] = field(default_factory=deque)  # for one that ends with Flush
    described: deque[str] = field(default_factory=deque)  # statements asked about


class PostgresConnection(Connection):
    """A client's session with PostgreSQL."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.phase = "start"  # then "auth", "ready"; or "cancel"
        self.prepared: dict[str, _Prepared] = {}
        self.sql_prepared: dict[str, str] = {}
        self.portals: dict[str, tuple[_Prepared, tuple[str | None, ...]]] = {}
        self.fetched: set[str] = set()  # portals that were executed before
        self.building: list[tuple[int, bytes]] = []  # extended messages without an end yet
        self.built = bytearray()
        self.turn: list[str] = []
        self.unsynced = False  # statements were run since the last ReadyForQuery
        self.skipping = False  # after an error the server skips messages until Sync
        self.copying = False  # the unit under way takes data from the client
        self.authenticated = False
        self.hand_on = False  # the client must have the message just read, to go on

    # From the client ---------------------------------------------------------------------------

    def parse_client(self) -> None:
        buffer = self.client_buffer
        at = 0
        while not self.closed:
            if self.phase == "start":
                taken = self._start(buffer, at)
                if not taken:
                    break
                at += taken
                continue
            if self.phase == "cancel" or len(buffer) - at < 5:
                break
            length = _INT32.unpack_from(buffer, at + 1)[0]
            if length < 4:
                self.broken(f"a message of length {length}")
                return
            end = at + 1 + length
            if len(buffer) < end:
                break
            self._message(buffer[at], buffer, at, end)
            at = end
        if at:
            del buffer[:at]

    def _start(self, buffer: bytearray, at: int) -> int:
        """Take one packet of before the session; how many bytes it had, 0 for not yet."""
        left = len(buffer) - at
        if left and buffer[at] == 0x16:
            self.broken("it insists on TLS (sslnegotiation=direct), which the grader cannot read")
            return 0
        if left < 8:
            return 0
        length, code = struct.unpack_from(">ii", buffer, at)
        if not 8 <= length <= 65536:
            self.broken("it does not speak PostgreSQL's protocol")
            return 0
        if left < length:
            return 0
        packet = bytes(buffer[at:at + length])
        if code in (SSL_REQUEST, GSSENC_REQUEST):
            self._unsent -= length
            self.to_client(b"N")
        elif code == CANCEL_REQUEST:
            self.phase = "cancel"
            backend = _INT32.unpack_from(packet, 8)[0] if length >= 12 else None
            self.wire.history.add(NOTE, self.wire.process, "asks PostgreSQL to cancel a query",
                                  cancel=True, backend=backend)
            self.queue.append(Unit("cancel", packet))
        else:
            self.phase = "auth"
            self.announce()
            self.queue.append(Unit("connect", packet))
        return length

    def _message(self, kind: int, buffer: bytearray, at: int, end: int) -> None:
        if self.phase == "auth" and not self.authenticated and kind in b"pX":
            self.to_server(bytes(buffer[at:end]))
        elif kind == 0x51 or kind == 0x46:  # Query, FunctionCall
            self._end_of_unit(kind, buffer, at, end)
        elif kind == 0x53 or kind == 0x48:  # Sync, Flush
            if self._in_copy() and not self.building and not self.queue:
                self.to_server(bytes(buffer[at:end]))
            else:
                self._end_of_unit(kind, buffer, at, end)
        elif kind in b"dcf":  # CopyData, CopyDone, CopyFail
            if self._in_copy() and not self.queue:
                self.to_server(bytes(buffer[at:end]))
            else:
                # Sent before the server asked for it: it goes when its turn comes. Out of a copy
                # the server ignores it without a word.
                self.queue.append(Unit("copy", bytes(buffer[at:end]), answers=False))
        elif kind == 0x58:  # Terminate
            self.rest()
            self.queue.append(Unit("close", bytes(buffer[at:end])))
        else:  # Parse, Bind, Describe, Execute, Close, or one we do not know
            self.building.append((kind, bytes(buffer[at + 5:end])))
            self.built += buffer[at:end]

    def rest(self) -> bool:
        if not self.built:
            return False
        # Messages without a Sync: the server takes them in, and answers nothing that is awaited.
        self.queue.append(Unit("rest", bytes(self.built), answers=False))
        self.building, self.built = [], bytearray()
        return True

    def _in_copy(self) -> bool:
        return self.copying and self.current is not None and self.current.state == SENT

    def _end_of_unit(self, kind: int, buffer: bytearray, at: int, end: int) -> None:
        messages, self.building = self.building, []
        messages.append((kind, bytes(buffer[at + 5:end])))
        data = bytes(self.built + buffer[at:end]) if self.built else bytes(buffer[at:end])
        self.built = bytearray()
        self.queue.append(Unit("query", data, _Parts(messages, sync=kind != 0x48)))

    # What a unit says --------------------------------------------------------------------------

    def make_step(self, unit: Unit) -> Step | None:
        if unit.kind == "connect":
            return self.step("connect", "connect", "connect")
        if unit.kind == "close":
            return self.step("close", "close", "close")
        if unit.kind != "query":
            return None
        parts: _Parts = unit.parts
        ran: list[tuple[str, Statement]] = []  # what was executed, in words
        prepared: list[str] = []
        for kind, body in parts.messages:
            self._read(kind, body, parts, ran, prepared)
        if not parts.sync and self.skipping:
            parts.expected.clear()
        fresh = self.status == "I" and not self.unsynced
        if fresh:
            self.turn = []
        if not ran:
            if prepared:
                made = [word for word in prepared if word.startswith("PREPARE ")]
                words = "; ".join(made or prepared)
                return self.step("prepare", words, nameable(words))
            if parts.sync and self.unsynced:  # it commits what a pipeline has run so far
                return self._said("SYNC", ())
            if len(parts.messages) > 1 or parts.sync:
                return self.step("check", "SYNC", "SYNC")
            return None  # a Flush and nothing else
        words = "; ".join(word for word, _ in ran if word)
        if not words:
            return self.step("check", "(empty query)", "(empty query)")
        statements = tuple(statement for word, statement in ran if word)
        if fresh and parts.sync and len(ran) == 1 and _CHECKS.fullmatch(words):
            return self.step("check", words, nameable(words), statements=statements)
        if all(_DEALLOCATE.match(word) for word, _ in ran):
            return self.step("prepare", words, nameable(words), statements=statements)
        if not parts.sync:
            self.unsynced = True
        return self._said(words, statements)

    def _said(self, words: str, statements: tuple[Statement, ...]) -> Step:
        self.turn.append(nameable(words))
        turn = self.turn
        if len(turn) > TURN_LIMIT:
            half = TURN_LIMIT // 2
            turn = [*turn[:half], f"({len(turn) - 2 * half} more)", *turn[-half:]]
        return self.step("query", words, "; ".join(turn), statements=statements)

    def _read(self, kind: int, body: bytes, parts: _Parts, ran: list[tuple[str, Statement]],
              prepared: list[str]) -> None:
        """Take in one message of a unit."""
        if kind == 0x51:  # Query
            found = sql_text.statements(_text(body[:-1]))
            ran.extend(self._statement(one) for one in found)
            if not found:
                ran.append(("", Statement("")))
        elif kind == 0x50:  # Parse
            name, rest = _string(body, 0)
            sql, rest = _string(body, rest)
            count = _INT16.unpack_from(body, rest)[0]
            oids = list(struct.unpack_from(f">{count}I", body, rest + 2))
            text = sql_text.one_line(sql)
            self.prepared[name] = _Prepared(text, oids)
            prepared.append(f"PREPARE {text}")
            parts.expected.append("parse")
        elif kind == 0x42:  # Bind
            portal, rest = _string(body, 0)
            name, rest = _string(body, rest)
            one = self.prepared.get(name) or _Prepared(f"(unknown statement {name!r})")
            self.portals[portal] = (one, _parameters(body, rest, one.oids))
            self.fetched.discard(portal)
            prepared.append(f"BIND {one.sql}")
            parts.expected.append("bind")
        elif kind == 0x44:  # Describe
            if body[:1] == b"S":
                name, _ = _string(body, 1)
                parts.described.append(name)
                prepared.append(f"DESCRIBE {self._sql_of(name)}")
            else:
                prepared.append("DESCRIBE a portal")
            parts.expected.append("describe")
        elif kind == 0x45:  # Execute
            portal, _ = _string(body, 0)
            one, values = self.portals.get(portal, (_Prepared(f"(unknown portal {portal!r})"), ()))
            word, statement = self._statement(one.sql, values)
            if portal in self.fetched:
                word = f"FETCH more of {word}"
            self.fetched.add(portal)
            ran.append((word, statement))
            parts.expected.append("execute")
        elif kind == 0x43:  # Close
            name, _ = _string(body, 1)
            if body[:1] == b"S":
                prepared.append(f"DEALLOCATE {self._sql_of(name)}")
                self.prepared.pop(name, None)
            else:
                prepared.append("CLOSE")
                self.portals.pop(name, None)
            parts.expected.append("close")
        elif kind == 0x46:  # FunctionCall: nobody's client but libpq's large objects
            ran.append(("(function call)", Statement("(function call)")))

    def _sql_of(self, name: str) -> str:
        one = self.prepared.get(name)
        return one.sql if one is not None else f"(unknown statement {name!r})"

    def _statement(
        self, sql: str, values: tuple[str | None, ...] = ()
    ) -> tuple[str, Statement]:
        """A statement and its words; what SQL's own EXECUTE stands for is looked up."""
        if (made := _SQL_PREPARE.match(sql)) is not None:
            self.sql_prepared[made[1].strip('"').lower()] = made[2]
        elif (run := _SQL_EXECUTE.match(sql)) is not None:
            meant = self.sql_prepared.get(run[1].strip('"').lower())
            if meant is not None:
                return f"{sql}: {meant}", Statement(meant, (run[2],) if run[2] else ())
        return sql, Statement(sql, values)

    # From the server ---------------------------------------------------------------------------

    def parse_answer(self, unit: Unit) -> bool:
        if unit.kind == "cancel":
            return False  # PostgreSQL just closes
        buffer = self.server_buffer
        size = len(buffer)
        at = 0
        if unit.kind == "query" and not unit.parts.sync:
            whole = self.skipping or not unit.parts.expected
        else:
            whole = False
        while not whole and size - at >= 5:
            end = at + 1 + _INT32.unpack_from(buffer, at + 1)[0]
            if end > size:
                break
            kind = buffer[at]
            if kind != 0x44 and kind != 0x64:  # rows and copied data have nothing to say
                whole = self._answer(unit, kind, buffer, at, end)
            at = end
            if self.hand_on:
                self.hand_on = False
                self.to_client(bytes(self.answer + buffer[:at]))
                self.answer.clear()
                del buffer[:at]
                size -= at
                at = 0
                if self.copying:
                    self._early_copy_data()
        self.answer += buffer[:at]
        del buffer[:at]
        return whole

    def _early_copy_data(self) -> None:
        while self.queue and self.queue[0].kind == "copy":
            self.to_server(self.queue.popleft().data)

    def _answer(self, unit: Unit, kind: int, buffer: bytearray, at: int, end: int) -> bool:
        """Take in one message from the server; whether the unit's answer is whole with it."""
        step = unit.step
        parts: _Parts | None = unit.parts
        if kind == 0x5A:  # ReadyForQuery
            self.status = chr(buffer[at + 5])
            self.skipping = self.unsynced = self.copying = False
            if unit.kind == "connect":
                self.phase = "ready"
            return True
        if unit.kind == "connect":
            return self._greeting(unit, kind, buffer, at, end)
        if unit.kind == "close":
            if kind == 0x45 and step is not None:
                self._error(step, bytes(buffer[at + 5:end]))
            return False
        if kind == 0x43 and step is not None:  # CommandComplete
            step.tags = (*step.tags, _text(buffer[at + 5:end - 1]))
            self._happened(parts, "execute")
        elif kind == 0x45:  # ErrorResponse
            if step is not None:
                self._error(step, bytes(buffer[at + 5:end]))
            if parts is not None and not parts.sync:
                parts.expected.clear()
                self.skipping = True
            if parts is not None and len(parts.messages) > 1 and parts.messages[-1][0] == 0x51:
                # Extended messages that a Query ends: the server skips it as well.
                self.skipping = True
                return True
        elif kind in b"GW":  # CopyInResponse, CopyBothResponse
            self.copying = self.hand_on = True
        elif kind == 0x74 and parts is not None:  # ParameterDescription
            count = _INT16.unpack_from(buffer, at + 5)[0]
            if parts.described:
                one = self.prepared.get(parts.described.popleft())
                if one is not None:
                    one.oids = list(struct.unpack_from(f">{count}I", buffer, at + 7))
        elif kind in b"Tn":
            self._happened(parts, "describe")
        elif kind == 0x73 and step is not None:  # PortalSuspended
            step.tags = (*step.tags, "SUSPENDED")
            self._happened(parts, "execute")
        elif kind in _HAPPENED:
            self._happened(parts, _HAPPENED[kind])
        return parts is not None and not parts.sync and not parts.expected

    def _happened(self, parts: _Parts | None, what: str) -> None:
        if parts is not None and parts.expected and parts.expected[0] == what:
            parts.expected.popleft()

    def _greeting(self, unit: Unit, kind: int, buffer: bytearray, at: int, end: int) -> bool:
        """One message of the server before the session stands."""
        if kind == 0x4B:  # BackendKeyData
            self.backend = int(_INT32.unpack_from(buffer, at + 5)[0])
            self.wire._backends[self.backend] = None
        elif kind == 0x52 and _INT32.unpack_from(buffer, at + 5)[0] == 0:
            self.authenticated = True
        elif kind == 0x45:
            if unit.step is not None:
                self._error(unit.step, bytes(buffer[at + 5:end]))
            return True
        elif not self.authenticated:  # the client has to answer this one
            self.hand_on = True
        return False

    def _error(self, step: Step, body: bytes) -> None:
        if step.error is None:
            fields = {part[:1]: _text(part[1:]) for part in body.split(b"\0") if part}
            step.error = fields.get(b"M", "")
            step.sqlstate = fields.get(b"C")

    def pass_idle(self) -> None:
        """Notices, notifications, settings, or the server's last word."""
        buffer = self.server_buffer
        at = 0
        while len(buffer) - at >= 5:
            end = at + 1 + _INT32.unpack_from(buffer, at + 1)[0]
            if end > len(buffer):
                break
            if buffer[at] == 0x45:
                fields = {part[:1]: _text(part[1:]) for part in bytes(buffer[at + 5:end])
                          .split(b"\0") if part}
                self.wire.history.add(NOTE, "postgres", fields.get(b"M", "an error"),
                                      connection=self.number, sqlstate=fields.get(b"C"))
            at = end
        self.to_client(bytes(buffer[:at]))
        del buffer[:at]

    def finished(self, unit: Unit) -> None:
        if unit.kind == "query" and self.status == "I" and not self.unsynced:
            self.turn = []


_HAPPENED = {0x31: "parse", 0x32: "bind", 0x33: "close", 0x49: "execute"}


class PostgresWire(Wire):
    """A proxy for one process's sessions with PostgreSQL."""

    server = "postgres"
    connection_type = PostgresConnection


def _text(raw: bytes | bytearray) -> str:
    return bytes(raw).decode("utf-8", "backslashreplace")


def _string(body: bytes, at: int) -> tuple[str, int]:
    """A null-terminated string and where the next field begins."""
    end = body.index(0, at)
    return _text(body[at:end]), end + 1


def _parameters(body: bytes, at: int, oids: list[int]) -> tuple[str | None, ...]:
    """The parameters of a Bind message, as text."""
    count = _INT16.unpack_from(body, at)[0]
    formats = struct.unpack_from(f">{count}h", body, at + 2)
    at += 2 + 2 * count
    count = _INT16.unpack_from(body, at)[0]
    at += 2
    values: list[str | None] = []
    for n in range(count):
        length = _INT32.unpack_from(body, at)[0]
        at += 4
        if length < 0:
            values.append(None)
            continue
        raw = body[at:at + length]
        at += length
        binary = formats[n] if len(formats) > 1 else formats[0] if formats else 0
        oid = oids[n] if n < len(oids) else 0
        values.append(_decoded(raw, oid) if binary else _text(raw))
    return tuple(values)


_EPOCH = datetime.datetime(2000, 1, 1)
_TEXTS = {18, 19, 25, 114, 142, 705, 1042, 1043}  # char name text json xml unknown bpchar varchar
_NUMBERS = {20: ">q", 21: ">h", 23: ">i", 26: ">I", 700: ">f", 701: ">d"}


def _decoded(raw: bytes, oid: int) -> str:
    """A value in binary format, for the types a queue uses; any other one in hexadecimal.

    The type numbers are those of PostgreSQL's catalogue `pg_type.dat`.
    """
    try:
        if oid in _TEXTS:
            return _text(raw)
        if oid == 3802:  # jsonb: a version byte, then text
            return _text(raw[1:])
        if oid in _NUMBERS:
            return str(struct.unpack(_NUMBERS[oid], raw)[0])
        if oid == 16:
            return "true" if raw != b"\0" else "false"
        if oid == 2950:
            return str(uuid.UUID(bytes=raw))
        if oid == 1082:
            days = struct.unpack(">i", raw)[0]
            return (_EPOCH + datetime.timedelta(days=days)).date().isoformat()
        if oid in (1114, 1184):
            moment = _EPOCH + datetime.timedelta(microseconds=struct.unpack(">q", raw)[0])
            return moment.isoformat(" ") + ("+00" if oid == 1184 else "")
    except (struct.error, ValueError, OverflowError):
        pass  # not what its type says: shown as it is
    return "\\x" + raw.hex()
