"""The schema of a database, read from its catalogue, and where it is not the one of the lab.

What has to be the same is what a client of the table can tell: columns, types, defaults, not null,
the checks, the primary key, and the index for the poll. Names of constraints and indexes are free,
and so are the order of the columns, further tables (a bookkeeping of migrations), and further
indexes that forbid nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from graders.harness.database import Database
from graders.harness.lab import Lab

# pg_get_expr and pg_get_constraintdef give PostgreSQL's own words, however it was written.
COLUMNS = """
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS needed,
           pg_get_expr(d.adbin, d.adrelid) AS "default"
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE a.attrelid = to_regclass('public.tasks') AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
CONSTRAINTS = """
    SELECT c.conname AS name, c.contype::text AS kind, pg_get_constraintdef(c.oid) AS told,
           (SELECT array_agg(a.attname::text ORDER BY k.place)
            FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
            JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.conrelid, k.number)) AS columns
    FROM pg_constraint c
    WHERE c.conrelid = to_regclass('public.tasks') AND c.contype IN ('p', 'u', 'c', 'f', 'x')
    ORDER BY c.conname
"""
INDEXES = """
    SELECT c.relname AS name, i.indisunique AS "unique", i.indisprimary AS "primary",
           i.indisvalid AS valid, pg_get_expr(i.indpred, i.indrelid) AS predicate,
           pg_get_indexdef(i.indexrelid) AS told,
           array(SELECT pg_get_indexdef(i.indexrelid, place, true)
                 FROM generate_series(1, i.indnkeyatts) AS place) AS columns
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = to_regclass('public.tasks')
    ORDER BY c.relname
"""
RELATIONS = """
    SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'audit')
    ORDER BY c.relname
"""

QUERIES = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES,
           "relations": RELATIONS}
NOW = ("now()", "CURRENT_TIMESTAMP", "transaction_timestamp()")
_CAST = re.compile(r"::[a-z ]+")

Described = dict[str, list[dict[str, Any]]]


def describe(lab: Lab, database: Database) -> Described:
    """All that the catalogue says of the tasks table of a database, and the names of relations."""
    return lab.catalogues(database, QUERIES)


def has_tasks(lab: Lab, database: Database) -> bool:
    """Whether there is a tasks table."""
    return bool(lab.catalogue(database, COLUMNS))


def difference(lab: Lab, database: Database) -> str:
    """In what the schema is not that of labs/lab02/schema.sql: the half of a sentence, or ""."""
    memo = lab.session.memo  # the lab's own schema is the same in each of its databases
    if "schema" not in memo:
        memo["schema"] = describe(lab, lab.database)
    return compare(describe(lab, database), memo["schema"])


def compare(found: Described, due: Described) -> str:
    """The first thing in which one schema is not the other: the half of a sentence, or ""."""
    if not found["columns"]:
        return "there is no table “tasks”"
    return _columns(found["columns"], due["columns"]) or _rules(found, due) or _index(found)


def _columns(found: Iterable[dict[str, Any]], due: Iterable[dict[str, Any]]) -> str:
    have = {column["name"]: column for column in found}
    for column in due:
        name = column["name"]
        if name not in have:
            return f"the table has no column “{name}”"
        here = have.pop(name)
        if here["type"] != column["type"]:
            return f"the column “{name}” is of the type {here['type']}, not {column['type']}"
        if here["needed"] != column["needed"]:
            return f"the column “{name}” {'may' if column['needed'] else 'must not'} be null"
        if _default(here) != _default(column):
            return (
                f"the default of the column “{name}” is {here['default'] or 'none'}, not "
                f"{column['default'] or 'none'}"
            )
    return f"the table has a column “{next(iter(have))}” too many" if have else ""


def _default(column: dict[str, Any]) -> str:
    text = _CAST.sub("", column["default"] or "").strip("()") if column["default"] else ""
    if any(text == now.strip("()") for now in NOW):
        return "now"
    return "a new uuid" if "uuid" in text.lower() and column["type"] == "uuid" else text


def _rules(found: Described, due: Described) -> str:
    """Constraints: what a row may be. A check is known by its columns and the texts in it."""
    have, want = (
        [(c["kind"], tuple(sorted(c["columns"] or ())), _literals(c)) for c in each["constraints"]]
        for each in (found, due)
    )
    words = {"p": "primary key", "u": "unique constraint", "c": "check", "f": "foreign key"}
    for kind, columns, literals in want:
        if (kind, columns, literals) not in have:
            on = ", ".join(columns)
            if literals:
                return f"no check on {on} allows {', '.join(literals)} and nothing else"
            return f"the {words[kind]} on {on} is missing"
    for each, told in zip(have, found["constraints"], strict=True):
        if each not in want:
            return f"there is a {words.get(each[0], 'constraint')} too many: {told['told']}"
    extra = [i for i in found["indexes"] if i["unique"] and not i["primary"]]
    return f"there is a unique index too many: {extra[0]['told']}" if extra else ""


def _literals(constraint: dict[str, Any]) -> tuple[str, ...]:
    if constraint["kind"] != "c":
        return ()
    if re.search(r"<>|\bNOT\b", constraint["told"].removeprefix("CHECK")):
        return ("(another rule)",)  # it forbids what it names
    return tuple(sorted(re.findall(r"'((?:[^']|'')*)'", constraint["told"])))


def _index(found: Described) -> str:
    for index in found["indexes"]:
        if (
            index["valid"] and index["columns"][:1] == ["created_at"]
            and _is_of_pending(index["predicate"] or "")
        ):  # fmt: skip
            return ""
    return "there is no index on created_at of the pending tasks alone"


def _is_of_pending(predicate: str) -> bool:
    """Whether a partial index holds the pending tasks and no other ones."""
    texts = re.findall(r"'([^']*)'", predicate)
    turned = re.search(r"[<>!]|\b(?:NOT|OR)\b", predicate)
    alone = [text.strip("{}") for text in texts] == ["pending"]  # of an array: '{pending}'
    return alone and turned is None and "status" in predicate
