"""Text that fits: display width, wrapping, cutting, and making hostile characters visible.

A worker may print anything. Nothing of that may move the cursor, change colours, reorder a line or
make it longer than the page, so all foreign text passes `clean` before it is measured and shown.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TextIO

# A line is a row of (style, text); the styles are those of `ANSI`, "" is plain.
Line = list[tuple[str, str]]

ANSI = {
    "bold": "1",
    "dim": "2",
    "good": "32",
    "bad": "1;31",
    "wait": "33",
    "fault": "1;35",
    "head": "1;36",
}

# For a terminal that is not Unicode: one column for one column, so no width changes.
_ASCII = str.maketrans("…→←─│├┤┼●○▶◀×·“”’", '~><-||||*o><x."\"\'')

MOST_MARKS = 4  # combining marks on one letter; more would be drawn over the lines around it
_JOINERS = "\u200c\u200d"


def clean(text: str, *, newlines: bool = False) -> str:
    """The text with every character that could act on a terminal shown as its escape.

    Tabs become four spaces. Newlines stay if asked for, else they are shown too.
    """
    if text.isascii() and text.isprintable():
        return text
    out = []
    marks = 0
    for char in text.replace("\r\n", "\n") if newlines else text:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if char == "\n" and newlines:
            out.append(char)
        elif char == "\t":
            out.append("    ")
        elif _acts(char) or marks > MOST_MARKS:
            out.append(char.encode("unicode_escape", "surrogatepass").decode("ascii"))
        else:
            out.append(char)
    return "".join(out)


def _acts(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in _JOINERS


def width_of(text: str) -> int:
    """Columns that a cleaned text takes; never less than a terminal gives it."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    if char == "\ufe0f":  # makes the character before it an emoji, two columns wide
        return 1
    if char in _JOINERS or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fitting(text: str, width: int) -> int:
    """How many characters of the text fit into this width."""
    if text.isascii():
        return min(len(text), width)
    used = 0
    for i, char in enumerate(text):
        used += _columns(char)
        if used > width:
            return i
    return len(text)


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """The text in at most `width` columns, with an ellipsis for what was left out."""
    if width_of(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    if not middle:
        return text[: _fitting(text, width - 1)].rstrip() + "…"
    tail = (width - 1) // 2
    head = text[: _fitting(text, width - 1 - tail)]
    end = text[::-1][: _fitting(text[::-1], tail)][::-1]
    return head + "…" + end


def pad(text: str, width: int) -> str:
    """The text, cut or filled with spaces to exactly `width` columns."""
    text = cut(text, width)
    return text + " " * (width - width_of(text))


def wrap(text: str, width: int, most: int | None = None) -> list[str]:
    """Lines of at most `width` columns; breaks at spaces, and inside words that are too long.

    Newlines in the text begin new lines. With `most`, the last line shows by an ellipsis that more
    was left out.
    """
    width = max(width, 2)
    lines: list[str] = []
    for paragraph in clean(text, newlines=True).split("\n"):
        rest = paragraph.rstrip()
        while width_of(rest) > width:
            end = _fitting(rest, width)
            # a space may stand just past the edge
            space = rest.rfind(" ", 0, end + 1)
            if space > 0 and rest[:space].strip():
                lines.append(rest[:space].rstrip())
                rest = rest[space + 1 :].lstrip()
            else:
                end = max(end, 1)
                lines.append(rest[:end])
                rest = rest[end:]
        lines.append(rest)
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], cut(lines[most - 1] + " …", width)]
        if not lines[-1].endswith("…"):
            lines[-1] = cut(lines[-1], width - 1) + "…"
    return lines


def unfold(text: str) -> str:
    """A docstring's text as paragraphs of one line each."""
    paragraphs = text.strip().split("\n\n")
    return "\n".join(" ".join(p.split()) for p in paragraphs if p.strip())


def emit(lines: Iterable[Line | str], out: TextIO, *, color: bool) -> None:
    """Write lines; in colour if asked for, in ASCII where the stream cannot take more."""
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        "…→─│●▶×".encode(encoding)
        plain = False
    except (UnicodeEncodeError, LookupError):
        plain = True
    for line in lines:
        parts = [("", line)] if isinstance(line, str) else line
        shown = "".join(_styled(text, style, color) for style, text in parts)
        if not color:
            shown = shown.rstrip()
        if plain:
            # a mark without a column of its own would become a question mark with one
            shown = "".join(filter(_columns, shown)).translate(_ASCII)
            shown = shown.encode("ascii", "replace").decode("ascii")
        else:
            shown = shown.encode(encoding, "replace").decode(encoding)
        out.write(shown + "\n")


def _styled(text: str, style: str, color: bool) -> str:
    code = ANSI.get(style)
    if not (color and code and text.strip()):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"
