"""One moment replayed: every step on the wire is told as it happens."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from graders.harness import history as h
from graders.harness.report.sql import shorten, with_labels
from graders.harness.report.text import clean, cut
from graders.harness.report.timeline import SERVERS

if TYPE_CHECKING:
    from graders.harness.explore.stage import Stage
    from graders.harness.room import Room
    from graders.harness.steps import Step

WIDTH = 100
_print = threading.Lock()


def follow(stage: Stage | Room, since: int = 0) -> None:
    """Tell its events on standard output, in a thread of its own, until its history is closed."""
    threading.Thread(target=_follow, args=(stage, since), name="replay", daemon=True).start()


def _follow(stage: Stage | Room, seen: int) -> None:
    labels: dict[str, str] = {}
    while True:
        closed = stage.history.closed
        events = stage.history.events(since=seen)
        seen += len(events)
        for event in events:
            if event.kind == h.TASK_ADDED:
                labels[str(event.data["task"])] = event.data["label"]
            if line := _line(event, labels):
                with _print:
                    print(cut(f"{event.at:8.3f}  {line}", WIDTH), flush=True)
        if closed and not events:
            return
        stage.history.wait(lambda _: True, 0.5, seen)


def _said(step: Step, labels: dict[str, str]) -> str:
    if step.server == "postgres" and step.statements:
        return "; ".join(shorten(s.sql, s.params, labels) for s in step.statements)
    return step.words


def _line(event: h.Event, labels: dict[str, str]) -> str:
    """An event in words; "" for one that is told by another."""
    step = event.data.get("step")
    if event.kind == h.STEP_ARRIVED:
        where = SERVERS.get(step.server, step.server)
        text = f"{event.who} -> {where}: {_said(step, labels)}"
    elif event.kind == h.STEP_ANSWERED:
        where = SERVERS.get(step.server, step.server)
        text = f"{event.who} <- {where}: {event.text}"
    elif event.kind in (h.REQUEST_SENT, h.REQUEST_ANSWERED):
        text = f"{event.who} -> {event.data['to']}: {event.text}"
    elif event.kind in (h.STEP_DELIVERED, h.CALL_ARRIVED, h.CALL_ANSWERED, h.STARTED, h.LOOKED):
        return ""
    elif event.kind == h.LOG:
        text = f"{event.who} logs: {event.text}"
    else:
        text = f"{event.who}: {event.text}"
    return with_labels(clean(text), labels)

