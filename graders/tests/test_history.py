"""The history: order, waiting, and how a wait's time is counted."""

from __future__ import annotations

import threading
import time

from graders.harness import history as h
from graders.harness.history import History


def test_events_are_numbered_in_the_order_in_which_they_came():
    history = History()
    for number in range(3):
        history.add(h.NOTE, "grader", f"note {number}", number=number)
    events = history.events()
    assert [e.n for e in events] == [0, 1, 2]
    assert [e.at for e in events] == sorted(e.at for e in events)
    assert [e.data["number"] for e in history.events(h.NOTE, since=1)] == [1, 2]
    assert history.events(h.LOG) == []
    assert history.events(who="nobody") == []


def test_a_wait_ends_with_the_event_it_waits_for():
    history = History()
    threading.Timer(0.05, lambda: history.add(h.EXIT, "worker-1", "ended", code=0)).start()
    found = history.wait(lambda e: e.kind == h.EXIT, 30)
    assert found.data["code"] == 0


def test_a_wait_finds_what_has_come_already_unless_told_otherwise():
    history = History()
    history.add(h.NOTE, "grader", "before")
    assert history.wait(lambda e: e.text == "before", 0) is not None
    assert history.wait(lambda e: e.text == "before", 0, since=len(history)) is None


def test_closing_wakes_whoever_waits_and_takes_no_more():
    history = History()
    threading.Timer(0.05, history.close).start()
    assert history.wait(lambda e: False, 30) is None
    history.add(h.NOTE, "grader", "too late")
    assert history.events() == []


def test_a_machine_that_stands_still_uses_up_one_turn_only(monkeypatch):
    """Each turn takes a hundred times as long as asked for, as on a machine without time for us."""
    history = History()
    turns = []

    def stalled(_condition, timeout=None):
        turns.append(timeout)
        clock[0] += 100 * timeout

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(threading.Condition, "wait", stalled)
    assert history.wait(lambda e: False, 2.0) is None
    assert sum(turns) >= 2.0 - 1e-6
    assert max(turns) <= h.TURN
