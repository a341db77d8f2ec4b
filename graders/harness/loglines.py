"""From the bytes that a process prints to lines that can be shown anywhere without harm."""

from __future__ import annotations

import re

LINE_LENGTH = 2000  # characters of one line that are kept
_KEPT_BYTES = 4 * LINE_LENGTH  # enough for so many characters of any length in UTF-8

# Colours and cursor movements of terminals (ECMA-48), and titles and links (OSC): no content.
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# What a terminal would act on, and what turns the direction of the text around it.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def harmless(raw: bytes) -> str:
    """One line as text: invalid bytes and control characters as escapes, colours left out."""
    text = raw.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = _TERMINAL.sub("", text.removesuffix("\r")).replace("\t", "    ")
        text = _HARMFUL.sub(_escape, text)
    if len(text) > LINE_LENGTH:
        text = text[:LINE_LENGTH] + " … (cut)"
    return text


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class LineSplitter:
    """Cuts a stream of bytes into lines, in bounded memory however long a line is."""

    def __init__(self) -> None:
        self._rest = bytearray()  # the line that has no end yet, as far as it is kept
        self._longer = False  # there was more of it

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete."""
        *complete, rest = data.split(b"\n")
        lines = []
        for part in complete:
            self._add(part)
            lines.append(self._take())
        self._add(rest)
        return lines

    def finish(self) -> list[str]:
        """The last line, if it has no newline."""
        return [self._take()] if self._rest or self._longer else []

    def _add(self, part: bytes) -> None:
        room = _KEPT_BYTES - len(self._rest)
        self._rest += part[:room]
        self._longer = self._longer or len(part) > room

    def _take(self) -> str:
        text = harmless(bytes(self._rest))
        if self._longer and not text.endswith("(cut)"):
            text += " … (cut)"
        self._rest.clear()
        self._longer = False
        return text
