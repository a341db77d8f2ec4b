"""DATAFLOW.md against what was observed: who spoke to whom, and in which order."""

from __future__ import annotations

import re
from pathlib import Path

from graders.harness import history as h
from graders.harness.lab import Lab
from graders.harness.program import Program
from graders.harness.results import Evidence

# What a participant of the diagram can be called. Freely worded: the first that fits counts.
PARTIES = {
    "PostgreSQL": r"postgres|pg\b|database|\bdb\b|tasks? table",
    "client": r"client|user|browser|curl",
    "api": r"\bapi\b|gateway",
    "world": r"world|outside|extern|remote|third|internet|http|endpoint|webhook|work_url"
    r"|service|mail|smtp|welt",
    "worker": r"worker|consumer",
    "PostgreSQL ": r"table|queue|tasks|store|server",
}
_ARROW = re.compile(
    r"^\s*(?P<a>[^\s:>-][^:>]*?)\s*(?:<<)?-{1,2}(?:>>|>|x|\))[+-]?\s*(?P<b>[^:]+?)\s*:.*$"
)
_PARTICIPANT = re.compile(r"^\s*(?:create\s+)?(?:participant|actor)\s+(\S+)(?:\s+as\s+(.+?))?\s*$")

Message = tuple[str, str]


def expect_drawn(lab: Lab, programs: list[Program], since: int) -> None:
    """The diagram's arrows contain, in order, what was observed of the one task.

    Of these programs (the API and a worker), and since that event: before it they were starting.
    """
    path = Path(lab.session.submission.copy) / "DATAFLOW.md"
    drawn = diagram(path.read_text(errors="replace")) if path.is_file() else []
    if not drawn:
        raise lab.finding(
            "diagram-missing",
            "DATAFLOW.md holds a Mermaid sequenceDiagram with the messages of one task.",
            "It holds none with an arrow between client, API, PostgreSQL, worker and world."
            if path.is_file() else "There is no file DATAFLOW.md.",
        )  # fmt: skip
    seen = observed(lab, {p.name: p.role for p in programs}, since)
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


def diagram(markdown: str) -> list[Message]:
    """The (from, to) pairs of the first Mermaid sequenceDiagram, between parties that we know."""
    blocks = re.findall(r"```\s*mermaid\s*\n(.*?)```", markdown, re.S | re.I)
    block = next((b for b in blocks if "sequencediagram" in b.lower()), None)
    if block is None:
        return []
    names: dict[str, str] = {}
    messages: list[Message] = []
    for line in block.splitlines():
        line = line.split("%%")[0]
        if declared := _PARTICIPANT.match(line):
            names[declared[1]] = declared[2] or declared[1]
        elif arrow := _ARROW.match(line):
            ends = [_party(names.get(end.strip(), end.strip())) for end in (arrow["a"], arrow["b"])]
            if None not in ends:
                messages.append((ends[0], ends[1]))
    return messages


def first_missing(wanted: list[Message], drawn: list[Message]) -> int | None:
    """The index of the first wanted message that is not drawn after the ones before; else None."""
    rest = iter(drawn)
    for index, message in enumerate(wanted):
        if message not in rest:
            return index
    return None


def _party(name: str) -> str | None:
    for party, pattern in PARTIES.items():
        if re.search(pattern, name, re.IGNORECASE):
            return party.strip()
    return None


def _said(message: Message) -> str:
    return f"{message[0]} -> {message[1]}"
