"""SQL made short enough for a timeline, without hiding what matters about a queue.

Kept: the verb, the table, the change of `status`, the conditions, FOR UPDATE, SKIP LOCKED. Left out
as an ellipsis: lists of columns, the other assignments, and in long statements more. Task ids
become their labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LONG = 180  # characters, above which RETURNING, LIMIT and ORDER BY go too, one after the other

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*(?:\n|$)|/\*.*?\*/)
    | (?P<string>[eE]?'(?:[^']|'')*'|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<param>\$\d+)
    | (?P<word>[^\W\d]\w*(?:\.\w+)*)
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<op>::|=>|<=|>=|<>|!=|->>|->|\|\||.)
    """,
    re.X | re.S,
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
# no space before their bracket, as people write them
_FUNCTION = re.compile(
    r"(?i)now|count|coalesce|min|max|any|make_interval|clock_timestamp|extract|notify|pg_\w+"
)
_END_OF_SELECT_LIST = {"FROM", "INTO", "WHERE", "FOR", "UNION", "LIMIT", "ORDER"}
_END_OF_SET = {"FROM", "WHERE", "RETURNING"}
_END_OF_ORDER = {"LIMIT", "OFFSET", "FOR", "FETCH", "RETURNING", "UNION"}
_END_OF_LIMIT = {"FOR", "RETURNING", "OFFSET", "UNION"}
_DISPENSABLE: tuple[tuple[tuple[str, ...], set[str]], ...] = (
    (("RETURNING",), set()), (("LIMIT",), _END_OF_LIMIT), (("ORDER", "BY"), _END_OF_ORDER))


def with_labels(text: str, labels: Mapping[str, str]) -> str:
    """The text with each known task id replaced by its label."""
    if not labels:
        return text
    return _UUID.sub(lambda m: labels.get(m[0].lower(), m[0]), text)


def value(param: str | None, labels: Mapping[str, str]) -> str:
    """A bound parameter as it is shown: a label, a number, NULL or a short quoted text."""
    if param is None:
        return "NULL"
    if param.lower() in labels:
        return labels[param.lower()]
    if re.fullmatch(r"-?\d+(\.\d+)?", param):
        return param if len(param) <= 20 else param[:19] + "…"
    if _UUID.fullmatch(param):
        return f"'{param[:8]}…'"
    shown = param if len(param) <= 28 else param[:27] + "…"
    return "'" + shown.replace("'", "''") + "'"


def shorten(
    sql: str, params: Sequence[str | None] = (), labels: Mapping[str, str] | None = None
) -> str:
    """One statement in one short line. What cannot be understood is shown as it is."""
    labels = labels or {}
    tokens = _tokens(sql, params, labels)
    tokens = _drop_lists(tokens)
    text = _join(tokens)
    for begin, ends in _DISPENSABLE:
        if len(text) <= LONG:
            break
        tokens = _drop_clause(tokens, begin, ends)
        text = _join(tokens)
    return text


def _tokens(sql: str, params: Sequence[str | None], labels: Mapping[str, str]) -> list[str]:
    found = []
    for match in _TOKEN.finditer(sql):
        kind, token = match.lastgroup, match[0]
        if kind == "tag":  # the last group that matched, inside a dollar-quoted string
            kind = "string"
        if kind == "comment" or token.isspace():
            continue
        if kind == "param":
            i = int(token[1:]) - 1
            token = value(params[i], labels) if i < len(params) else token
        elif kind == "string" and token.startswith("'"):
            shown = value(token[1:-1].replace("''", "'"), labels)
            # a number in quotes stays in quotes: that is what was sent
            token = token if token == f"'{shown}'" else shown
        found.append(token)
    while found and found[-1] == ";":
        found.pop()
    return _drop_casts(found)


def _drop_casts(tokens: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
            continue
        if token == "::":
            skip = True
            continue
        kept.append(token)
    return kept


def _clause_end(tokens: list[str], start: int, ends: set[str]) -> int:
    """Where the clause that begins at `start` ends: at such a word, or where its bracket closes."""
    depth = 0
    for i in range(start, len(tokens)):
        token = tokens[i]
        if token == "(":
            depth += 1
        elif token == ")":
            if depth == 0:
                return i
            depth -= 1
        elif depth == 0 and (token.upper() in ends or token == ";"):
            return i
    return len(tokens)


def _drop_lists(tokens: list[str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        word = token.upper()
        out.append(token)
        i += 1
        if word == "SELECT":
            end = _clause_end(tokens, i, _END_OF_SELECT_LIST)
            columns = tokens[i:end]
            out += columns if "," not in columns and len(_join(columns)) <= 24 else ["…"]
            i = end
        elif word == "RETURNING":
            end = _clause_end(tokens, i, set())
            columns = tokens[i:end]
            out += columns if "," not in columns and len(_join(columns)) <= 24 else ["…"]
            i = end
        elif word == "SET" and any(t.upper() == "UPDATE" for t in out):
            end = _clause_end(tokens, i, _END_OF_SET)
            out += _assignments(tokens[i:end])
            i = end
        elif word in ("INTO", "VALUES") or (word == "," and "VALUES" in map(str.upper, out)):
            if word == "INTO" and i < len(tokens):
                out.append(tokens[i])
                i += 1
            if i < len(tokens) and tokens[i] == "(":
                end = _clause_end(tokens, i + 1, set())
                out += ["(", "…", ")"]
                i = end + 1
    return out


def _assignments(tokens: list[str]) -> list[str]:
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    kept = [p for p in parts if p and p[0].strip('"').lower().split(".")[-1] == "status"]
    if not kept:
        kept = parts[:1]
    out: list[str] = []
    for part in kept:
        out += [*part, ","]
    return [*out, "…"] if len(kept) < len(parts) else out[:-1]


def _drop_clause(tokens: list[str], begin: tuple[str, ...], ends: set[str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(tokens):
        if tuple(t.upper() for t in tokens[i : i + len(begin)]) == begin:
            i = _clause_end(tokens, i + len(begin), ends)
            # never silently: a clause that is not shown must not look forgotten
            if out[-1:] != ["…"]:
                out.append("…")
            continue
        out.append(tokens[i])
        i += 1
    return out


def _join(tokens: list[str]) -> str:
    text = ""
    before = ""
    for token in tokens:
        call = token == "(" and _FUNCTION.fullmatch(before)
        tight = token in (",", ")", ";", ".", "]", "[") or before in ("(", ".", "[") or call
        if text and not tight:
            text += " "
        text += token
        before = token
    return text
