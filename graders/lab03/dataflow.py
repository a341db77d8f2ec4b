"""DATAFLOW.md against what was observed: who spoke to whom, and in which order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from graders.harness import history as h
from graders.harness.lab import Lab
from graders.harness.program import Program
from graders.harness.results import Evidence

# What a participant of the diagram can be called. Freely worded, so that several may fit (“worker
# service”, “external API”): then it is the one with which the diagram says most of what was seen.
PARTIES = {
    "PostgreSQL": r"postgres|pg\b|psql|sql\b|database|\bdb\b|tasks? table",
    "client": r"client|user|browser|curl",
    "api": r"api|gateway",
    "world": r"world|outside|extern|remote|third|internet|http|endpoint|webhook|work_url"
    r"|service|mail|smtp|welt",
    "worker": r"worker|consumer",
    "PostgreSQL ": r"table|queue|tasks|store|server",
}
_ARROW = re.compile(
    r"^\s*(?P<a>[^\s:>-][^:>]*?)\s*(?:<<)?-{1,2}(?:>>|>|x|\))[+-]?\s*(?P<b>[^:]+?)\s*:.*$"
)
_BLOCK = re.compile(r"^[ \t]*(`{3,}|~{3,})\s*mermaid[^\n]*\n(.*?)^[ \t]*\1", re.S | re.I | re.M)
READINGS = 1_000  # of one diagram that are tried, at most,
ARROWS = 1_000  # and of its arrows
_PARTICIPANT = re.compile(r"^\s*(?:create\s+)?(?:participant|actor)\s+(\S+)(?:\s+as\s+(.+?))?\s*$")

Message = tuple[str, str]
Arrow = tuple[str, str]  # from and to, as the diagram names them


def expect_drawn(lab: Lab, programs: list[Program], since: int) -> None:
    """The diagram's arrows contain, in order, what was observed of the one task.

    Of these programs (the API and a worker), and since that event: before it they were starting.
    """
    path = Path(lab.session.submission.copy) / "DATAFLOW.md"
    seen = observed(lab, {p.name: p.role for p in programs}, since)
    drawn = best_reading(path.read_text(errors="replace"), seen) if path.is_file() else []
    if not drawn:
        raise lab.finding(
            "diagram-missing",
            "DATAFLOW.md holds a Mermaid sequenceDiagram with the messages of one task.",
            "It holds none with an arrow between client, API, PostgreSQL, worker and world."
            if path.is_file() else "There is no file DATAFLOW.md.",
        )  # fmt: skip
    missing = first_missing(seen, drawn)
    if missing is not None:
        raise lab.finding(
            "diagram-incomplete",
            "The diagram's arrows contain, in this order, the messages that were observed.",
            f"Message {missing + 1}, {_said(seen[missing])}, is not drawn after those before it.",
            Evidence("Observed", tuple(f"{i}. {_said(m)}" for i, m in enumerate(seen, 1))),
            Evidence("Drawn", tuple(f"{i}. {_said(m)}" for i, m in enumerate(drawn, 1))),
        )


def observed(lab: Lab, roles: dict[str, str], since: int = 0) -> list[Message]:
    """The messages of a task, without repetitions: from the client's POST to its last GET.

    `roles` says what each process is called in a diagram.
    """
    messages: list[Message] = []
    in_hand = False
    requests = 0

    def add(*new: Message) -> None:
        for message in new:
            # Several statements in a row are one conversation: there and back.
            if message not in messages[-2:]:
                messages.append(message)

    for event in lab.history.events(since=since):
        step, call = event.data.get("step"), event.data.get("call")
        if event.kind == h.REQUEST_SENT:
            requests += 1
            add(("client", "api"))
        elif event.kind == h.REQUEST_ANSWERED:
            add(("api", "client"))
        elif event.kind == h.CALL_ARRIVED and call.process in roles:
            in_hand = True
            add(("worker", "world"))
        elif event.kind == h.CALL_ANSWERED and call.process in roles:
            in_hand = False
            add(("world", "worker"))
        elif event.kind == h.STEP_DELIVERED and event.who in roles and step.kind == "query":
            role = roles[event.who]
            # What a worker says while the work is done (a heartbeat, a reaper), or when the client
            # asks for the end already (its next poll), is no message of the task.
            if in_hand or (role == "worker" and requests > 1):
                continue
            add((role, "PostgreSQL"), ("PostgreSQL", role))
    return messages


def best_reading(markdown: str, seen: list[Message]) -> list[Message]:
    """What is drawn between parties that we know, read so that it says most of what was seen.

    Of all Mermaid sequence diagrams; [] where there is none with such an arrow.
    """
    readings = (r for arrows in diagrams(markdown) for r in _readings(arrows[:ARROWS]) if r)

    def said(reading: list[Message]) -> int:
        missing = first_missing(seen, reading)
        return len(seen) if missing is None else missing

    return max(readings, key=said, default=[])  # the first of those that say as much


def diagrams(markdown: str) -> Iterator[list[Arrow]]:
    """The arrows of each Mermaid sequence diagram, in order."""
    for _, block in _BLOCK.findall(markdown):
        if "sequencediagram" not in block.lower():
            continue
        names: dict[str, str] = {}
        arrows: list[Arrow] = []
        for line in block.splitlines():
            line = line.split("%%")[0]
            if declared := _PARTICIPANT.match(line):
                names[declared[1]] = declared[2] or declared[1]
            elif arrow := _ARROW.match(line):
                ends = (arrow["a"].strip(), arrow["b"].strip())
                arrows.append((names.get(ends[0], ends[0]), names.get(ends[1], ends[1])))
        yield arrows


def _readings(arrows: list[Arrow]) -> Iterator[list[Message]]:
    """The messages that the arrows can stand for: by each party that a name can be of."""
    meant = {name: parties(name) for arrow in arrows for name in arrow}
    known = {name: those for name, those in meant.items() if those}
    for chosen in itertools.islice(itertools.product(*known.values()), READINGS):
        party = dict(zip(known, chosen, strict=True))
        yield [(party[a], party[b]) for a, b in arrows if a in party and b in party]


def first_missing(wanted: list[Message], drawn: list[Message]) -> int | None:
    """The index of the first wanted message that is not drawn after the ones before; else None."""
    rest = iter(drawn)
    for index, message in enumerate(wanted):
        if message not in rest:
            return index
    return None


def parties(name: str) -> list[str]:
    """The parties that a participant of this name can be, the likeliest first."""
    found = (party.strip() for party, pattern in PARTIES.items()
             if re.search(pattern, name, re.IGNORECASE))
    return list(dict.fromkeys(found))


def _said(message: Message) -> str:
    return f"{message[0]} -> {message[1]}"
