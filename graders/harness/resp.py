"""RESP, the protocol of Redis and Valkey, versions 2 and 3: just enough of it to read a wire.

Source: "Redis serialization protocol specification". Positions are offsets into a buffer; a
function returns None when the buffer does not hold the whole of what it was asked for.
"""

from __future__ import annotations

from typing import Any

NEWLINE = b"\r\n"
MOST_WORDS = 1024 * 1024  # of one command, as Redis has it
_LINES = b"+-:_#,("  # the whole value is one line
_BULKS = b"$!="  # a length, then as many bytes
_ARRAYS = {0x2A: 1, 0x7E: 1, 0x3E: 1, 0x25: 2}  # * ~ > %: values per counted element
_ATTRIBUTE = 0x7C  # |: pairs about the value that follows


class NotRespError(ValueError):
    """These bytes are not RESP."""


def command(buffer: bytearray, at: int) -> tuple[list[bytes], int] | None:
    """The command that begins here, as its words, and where it ends. Raises NotRespError."""
    end = buffer.find(NEWLINE, at)
    if end < 0:
        if buffer[at:at + 1] != b"*" and len(buffer) - at > 65536:
            raise NotRespError("a line of more than 64 kB")
        return None
    if buffer[at] != 0x2A:  # an inline command, as typed into telnet
        return bytes(buffer[at:end]).split(), end + 2
    count = _number(buffer, at + 1, end)
    if count > MOST_WORDS:
        raise NotRespError(f"a command of {count} words")
    at = end + 2
    words: list[bytes] = []
    for _ in range(count):
        end = buffer.find(NEWLINE, at)
        if end < 0:
            return None
        if buffer[at] != 0x24:
            raise NotRespError("a command whose words are not bulk strings")
        length = _number(buffer, at + 1, end)
        if length < 0:
            raise NotRespError("a word of negative length")
        at = end + 2
        if len(buffer) < at + length + 2:
            return None
        words.append(bytes(buffer[at:at + length]))
        at += length + 2
    return words, at


def reply_end(buffer: bytearray, at: int) -> int | None:
    """Where the reply that begins here ends. Raises NotRespError."""
    left = 1
    while left:
        end = buffer.find(NEWLINE, at)
        if end < 0:
            return None
        kind = buffer[at]
        left -= 1
        if kind in _LINES:
            at = end + 2
        elif kind in _BULKS:
            length = _number(buffer, at + 1, end)
            at = end + 2 + (length + 2 if length >= 0 else 0)
        elif kind in _ARRAYS:
            left += max(_number(buffer, at + 1, end), 0) * _ARRAYS[kind]
            at = end + 2
        elif kind == _ATTRIBUTE:
            left += _number(buffer, at + 1, end) * 2 + 1
            at = end + 2
        else:
            raise NotRespError(f"a reply that begins with {chr(kind)!r}")
        if at > len(buffer):
            return None
    return at


def value(raw: bytes | bytearray, at: int = 0) -> Any:
    """A whole reply as plain data: str, int, float, bool, None, list, dict. For showing."""
    return _value(bytearray(raw), at)[0]


def _value(raw: bytearray, at: int) -> tuple[Any, int]:
    end = raw.find(NEWLINE, at)
    kind, line = raw[at], bytes(raw[at + 1:end])
    after = end + 2
    if kind == 0x3A:
        return int(line), after
    if kind == 0x2C:
        return float(line), after
    if kind == 0x5F:
        return None, after
    if kind == 0x23:
        return line == b"t", after
    if kind in _LINES:
        return text(line), after
    if kind in _BULKS:
        length = int(line)
        if length < 0:
            return None, after
        body = bytes(raw[after:after + length])
        return text(body[4:] if kind == 0x3D else body), after + length + 2
    if kind == _ATTRIBUTE:
        for _ in range(2 * int(line)):
            _, after = _value(raw, after)
        return _value(raw, after)
    count = int(line)
    if count < 0:
        return None, after
    values = []
    for _ in range(count * _ARRAYS[kind]):
        one, after = _value(raw, after)
        values.append(one)
    if kind == 0x25:
        pairs = zip(values[::2], values[1::2], strict=True)
        return {key if isinstance(key, str | int) else str(key): one for key, one in pairs}, after
    return values, after


def text(raw: bytes | bytearray) -> str:
    """Bytes for showing: UTF-8, what is none of it escaped."""
    return bytes(raw).decode("utf-8", "backslashreplace")


def _number(buffer: bytearray, at: int, end: int) -> int:
    try:
        return int(buffer[at:end])
    except ValueError:
        raise NotRespError(f"a length of {bytes(buffer[at:end][:20])!r}") from None
