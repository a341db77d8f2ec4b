"""SQL as text: split into statements, folded to one line. Enough for words, not a parser."""

from __future__ import annotations

import re
from functools import lru_cache

LIMIT = 64 * 1024  # characters

# What must not be looked into: comments, strings, quoted names, dollar quotes. See "Lexical
# Structure" in PostgreSQL's manual. Nested comments are taken as far as their first end.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted> [eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\Z)
                | '[^']*(?:''[^']*)*(?:'|\Z)
                | "[^"]*(?:""[^"]*)*(?:"|\Z)
                | \$(?P<tag>[^\W\d]\w*|)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<end> ; )
    | (?P<space> \s+ )
    | (?P<other> [\w$]+ | . )  # a whole word: what looks like E'' or $$ is not, inside of one
    """,
    re.VERBOSE | re.DOTALL,
)


def statements(sql: str) -> tuple[str, ...]:
    """The statements of a text, each on one line, without comments and without empty ones.

    White space inside strings is kept, save line ends, which would break the line. Of a very long
    text only the beginning is told.
    """
    return _statements(sql if len(sql) <= LIMIT else sql[:LIMIT] + " …")


@lru_cache(maxsize=1024)
def _statements(sql: str) -> tuple[str, ...]:
    found: list[str] = []
    words: list[str] = []

    def close() -> None:
        statement = "".join(words).strip()
        if statement:
            found.append(statement)
        words.clear()

    for token in _TOKEN.finditer(sql):
        kind = token.lastgroup
        if kind == "end":
            close()
        elif kind in ("space", "comment"):
            if words and words[-1] != " ":
                words.append(" ")
        elif kind in ("quoted", "tag"):
            words.append(token.group().replace("\r", " ").replace("\n", " "))
        else:
            words.append(token.group())
    close()
    return tuple(found)


def one_line(sql: str) -> str:
    """A text's statements joined by "; "; an empty text if there is none."""
    return "; ".join(statements(sql))
