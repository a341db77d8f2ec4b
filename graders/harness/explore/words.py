"""Moments in words: what had been said on the wire, and who had heard of it."""

from __future__ import annotations

import re

from graders.harness.explore.record import Moment
from graders.harness.report.sql import shorten
from graders.harness.report.timeline import SERVERS
from graders.harness.steps import nameable

LONG = 90  # characters of a statement in a sentence
_WRITES = re.compile(r"\s*(update|insert|delete|merge|with)\b", re.IGNORECASE)
_ENDS = re.compile(r"\s*(commit|end)\b", re.IGNORECASE)
_OPENS = re.compile(r"\s*(begin|start transaction|savepoint|set|release)\b", re.IGNORECASE)


def statement(moment: Moment) -> str:
    """What was said, short enough for a sentence, in quotation marks.

    Without ids and numbers, so that a table reads the same on every run.
    """
    # A Redis command's name has its JSON by the keys only; an SQL statement's is all since BEGIN.
    words = moment.name if moment.server == "redis" else nameable(moment.words)
    if moment.server == "postgres":
        words = "; ".join(shorten(part) for part in words.split("; "))
    return f"“{words if len(words) <= LONG else words[: LONG - 1] + '…'}”"


def after(moment: Moment, who: str = "the worker") -> str:
    """ "after PostgreSQL had committed “UPDATE …”, before the worker heard of it"."""
    server = SERVERS.get(moment.server, moment.server)
    unheard = f", before {who} heard of it"
    if moment.kind == "connect":
        return f"after {server} had accepted its {_nth(moment)}connection"
    if moment.kind == "call":
        return f"while the outside world did the work of {_task(moment)}"
    if moment.kind == "call-answer":
        return f"after the work of {_task(moment)} was done{unheard}"
    said = statement(moment)
    if moment.server == "postgres":
        if committed := _committed(moment):
            return f"after {server} had committed {committed}{_which(moment)}{unheard}"
        if moment.status == "I" and moment.status_before == "I":
            done = "run and committed" if _WRITES.match(moment.words) else "answered"
            return f"after {server} had {done} {said}{_rows(moment)}{_which(moment)}{unheard}"
        return f"after {server} had answered {said}{_rows(moment)}, inside the transaction" \
               f"{_which(moment)}{unheard}"
    if moment.waits:
        return f"while it waited at {server} for the answer to {said}{_which(moment)}"
    did = "sent the" if moment.kind == "reply" else "carried out"
    return f"after {server} had {did} {said}{_which(moment)}{unheard}"


def before(moment: Moment) -> str:
    """ "before “UPDATE …” reached PostgreSQL"."""
    server = SERVERS.get(moment.server, moment.server)
    if moment.kind == "connect":
        return f"while it opened its {_nth(moment)}connection to {server}"
    if moment.kind == "reply":
        return f"before {server} had an answer for it{_which(moment)}"
    said = statement(moment)
    if committed := _committed(moment):
        said = f"the COMMIT of {committed}"
    return f"before {said} reached {server}{_which(moment)}"


def _committed(moment: Moment) -> str:
    """What a COMMIT commits: the last change of its transaction, else its last statement."""
    if not _ENDS.match(moment.words):
        return ""
    parts = [p for p in moment.name.split("; ")[:-1] if not _OPENS.match(p)]
    writes = [p for p in parts if _WRITES.match(p)]
    if not parts:
        return "nothing"
    said = shorten((writes or parts)[-1])
    return f"“{said if len(said) <= LONG else said[: LONG - 1] + '…'}”"


def _rows(moment: Moment) -> str:
    counts = [tag.rpartition(" ")[2] for tag in moment.tags]
    if len(counts) != 1 or not counts[0].isdigit():
        return ""
    return " (no row)" if counts[0] == "0" else " (1 row)" if counts[0] == "1" else \
           f" ({counts[0]} rows)"


def _which(moment: Moment) -> str:
    return f" for the {_nth(moment)}time" if _nth(moment) else ""


def _nth(moment: Moment) -> str:
    names = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}
    if moment.occurrence < 2:
        return ""
    return names.get(moment.occurrence, f"{moment.occurrence}th") + " "


def _task(moment: Moment) -> str:
    return moment.words.rpartition(" ")[2]
