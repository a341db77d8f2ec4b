"""What is measured in a notebook: how long tasks wait, and how many are done in a second."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from graders.harness import history as h
from graders.harness.check import CouldNotGrade
from graders.harness.session import GradingSession
from graders.notebook.moments import add_work

SETTLED = 2  # polls of a worker before the first task comes


def waiting_times(
    session: GradingSession, intervals: Sequence[float], tasks: int
) -> dict[float, list[float]]:
    """How long each of so many tasks waited until its work began, in seconds, by poll interval."""
    with ThreadPoolExecutor(len(intervals)) as pool:
        waited = list(pool.map(lambda i: _waits(session, i, tasks), intervals))
    return dict(zip(intervals, waited, strict=True))


def _waits(session: GradingSession, interval: float, tasks: int) -> list[float]:
    room = session.room(f"notebook-waits-{interval:g}")
    rest = random.Random(f"{interval} {tasks}")
    try:
        room.world.answer_all()
        worker = room.start_worker(env={"WORKER_POLL_INTERVAL": f"{interval:g}"})
        worker.wait(lambda _: worker.polls() >= SETTLED, room.budgets.work)
        for _ in range(tasks):
            # At any moment of an interval, and after the one before it has been taken.
            room.history.wait(lambda _: False, rest.uniform(1, 2) * interval)
            add_work(room)
        _wait_calls(room, tasks)
        added = {str(e.data["task"]): e.at for e in room.history.events(h.TASK_ADDED)}
        return [call.arrived_at - added[call.task_id] for call in room.world.calls]
    finally:
        room.close()


def throughput(
    session: GradingSession, workers: Sequence[int], tasks: int, work: float,
    at_once: int | None = None,
) -> dict[int, float]:
    """Tasks per second, by the number of workers; the world takes `work` seconds for each.

    It works on as many at a time as come, or on `at_once` of them; the others wait their turn.
    """
    rates = {}
    for count in workers:
        rates[count] = _rate(session, count, tasks, work, at_once or tasks)
    return rates


def _rate(session: GradingSession, count: int, tasks: int, work: float, at_once: int) -> float:
    room = session.room(f"notebook-rate-{count}")
    loop = session.loop.loop
    free_at = [0.0] * at_once  # a heap: when each place of the world is free again

    def finish_later(call: Any) -> str:
        ends = max(loop.time(), free_at[0]) + work
        heapq.heapreplace(free_at, ends)
        loop.call_at(ends, call.finish)
        return "hold"

    try:
        room.world.answer_all(finish_later)
        pause = {"WORKER_POLL_INTERVAL": "0.05"}
        started = [room.start_worker(env=pause, ready=False) for _ in range(count)]
        for worker in started:
            worker.expect_ready()
        for _ in range(tasks):
            add_work(room)
        _wait_calls(room, tasks)
        calls = room.world.calls
        # From the first beginning of work to the last end: what it takes to put the tasks there
        # does not count, and several workers in step seem no faster than they are.
        return tasks / (max(c.answered_at for c in calls) - min(c.arrived_at for c in calls))
    finally:
        room.close()


def _wait_calls(room: Any, count: int) -> None:
    """Wait until so many calls were answered."""
    def done(_: Any) -> bool:
        return sum(call.answered_at is not None for call in room.world.calls) >= count

    if not room.history.wait_until(done, 4 * room.budgets.work):
        raise CouldNotGrade(f"Only {len(room.world.calls)} of {count} tasks were worked in time.")
