"""What lasts for a while in a timeline: a task's status, a worker's claim, the work on a task.

All places are numbers of rows; the drawing knows where those stand on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graders.harness import results
from graders.harness.report.timeline import BROKE, natural
from graders.harness.results import TimelineRow

CLAIM, WORK = "claim", "work"
MOST_BANDS = 4  # tasks whose statuses are drawn


@dataclass
class Band:
    """A status of a task, from one row to another (None: to the end)."""

    task: str
    status: str
    first: int
    last: int | None = None


@dataclass
class Bar:
    """A worker's claim on a task, or its work on it, from one row to another."""

    kind: str  # CLAIM or WORK
    lane: str
    task: str
    first: int
    last: int | None = None
    lost: bool = False  # work that its worker never finished
    slot: int = 0  # its place beside others of the same lane


def bands(timeline: Sequence[TimelineRow]) -> dict[str, list[Band]]:
    """The statuses of each task, in order. Tasks of which none is known are left out."""
    added: dict[str, int] = {}
    found: dict[str, list[Band]] = {}
    for i, row in enumerate(timeline):
        if row.kind == results.ADDED:
            for task in row.tasks:
                added.setdefault(task, i)
                if row.status:
                    found[task] = [Band(task, row.status, i)]
        if row.kind != results.STATUS:
            continue
        for task in row.tasks:
            before = found.setdefault(task, [])
            if not before and row.was:
                before.append(Band(task, row.was, added.get(task, 0)))
            open_ = before[-1] if before and before[-1].last is None else None
            if open_ is not None and open_.status == row.status:
                continue
            if open_ is not None:
                open_.last = i
            if row.status:
                before.append(Band(task, row.status, i))
    return {task: found[task] for task in sorted(found, key=natural) if found[task]}


def near_the_broken(timeline: Sequence[TimelineRow], tasks: Sequence[str]) -> list[str]:
    """Of these tasks at most MOST_BANDS: those that the rows nearest to the broken one tell of."""
    broke = next((i for i, row in enumerate(timeline) if row.mark == BROKE), len(timeline) - 1)
    distance: dict[str, int] = {}
    for i, row in enumerate(timeline):
        for task in row.tasks:
            distance[task] = min(abs(i - broke), distance.get(task, len(timeline)))
    nearest = sorted(tasks, key=lambda task: distance.get(task, len(timeline)))[:MOST_BANDS]
    return [task for task in tasks if task in nearest]


def bars(timeline: Sequence[TimelineRow], lanes: Sequence[str]) -> list[Bar]:
    """All claims and works, each with its place in its lane."""
    found: list[Bar] = []
    claims: dict[str, Bar] = {}  # the open one of each task
    works: dict[tuple[str, str], list[Bar]] = {}  # the open ones of a worker and a task
    for i, row in enumerate(timeline):
        for task in row.tasks:
            if row.kind == results.STATUS:
                held = claims.get(task)
                if held is not None and held.lane == row.worker:
                    continue
                if held is not None:
                    claims.pop(task).last = i
                if row.worker in lanes:
                    claims[task] = Bar(CLAIM, row.worker, task, i)
                    found.append(claims[task])
            elif row.kind == results.WORK and row.worker in lanes:
                found.append(Bar(WORK, row.worker, task, i))
                works.setdefault((row.worker, task), []).append(found[-1])
            elif row.kind in (results.WORK_DONE, results.WORK_LOST):
                under_way = works.get((row.worker, task))
                if under_way:
                    done = under_way.pop(0)
                    done.last, done.lost = i, row.kind == results.WORK_LOST
        if row.kind == results.EXIT:
            for key in [key for key in works if key[0] == row.lane]:
                for dropped in works.pop(key):
                    dropped.last, dropped.lost = i, True
    _side_by_side(found, len(timeline))
    return found


def _side_by_side(found: list[Bar], end: int) -> None:
    """Give each bar the first slot that is free; those of one task at one time share theirs."""

    def overlap(a: Bar, b: Bar) -> bool:
        return a.first <= (end if b.last is None else b.last) and b.first <= (
            end if a.last is None else a.last)

    placed: list[Bar] = []
    for bar in found:
        beside = [p for p in placed if p.lane == bar.lane and overlap(p, bar)]
        same = next((p for p in beside if p.task == bar.task and p.kind != bar.kind), None)
        if same is not None:
            bar.slot = same.slot
        else:
            taken = {p.slot for p in beside}
            bar.slot = next(n for n in range(len(placed) + 1) if n not in taken)
        placed.append(bar)
