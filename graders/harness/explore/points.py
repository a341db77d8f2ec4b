"""Trials at moments: run side by side, each tried again where the trial itself went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from graders.harness import history as h
from graders.harness.check import CouldNotGrade, Finding
from graders.harness.explore import words
from graders.harness.explore.record import (
    Moment,
    NotRecorded,
    Recorded,
    Recorder,
    Unworked,
)
from graders.harness.explore.stage import (
    COMPLETED,
    FAILED,
    PENDING,
    PROCESSING,
    Execution,
    Item,
    Player,
    Scenario,
    Stage,
)
from graders.harness.places import Number, Places
from graders.harness.results import HELD, NOT_EXPLORED, Coverage, Evidence, MomentResult

if TYPE_CHECKING:
    from graders.harness.session import GradingSession
    from graders.harness.steps import Hold

MOST_LISTED = 30  # moments that broke, one line each


class Felt(Exception):
    """The trial itself was felt by the worker, or did not come about; it says nothing of it."""


class NotReached(Felt):
    """The named step did not come in this run."""


@dataclass(frozen=True)
class Seen:
    """What a finding needs of a stage that is gone: kept when a trial ends."""

    events: tuple[h.Event, ...]
    told: tuple[str, ...]
    evidence: tuple[Evidence, ...]

    def called(self, code: str) -> Seen:
        """The same, with the finding named where its timeline says that it broke."""
        events = tuple(replace(event, data={**event.data, "code": code})
                       if event.data.get("broke") else event for event in self.events)
        return replace(self, events=events)


@dataclass(frozen=True)
class Broken:
    """What broke at a moment: a true sentence, and where it was seen."""

    code: str
    what: str  # "T1 stayed in “processing”", after a colon
    seen: Seen | None = None


@dataclass
class Point:
    """One trial. `label` is what STEP= names; `where` says the moment in words."""

    label: str
    where: str
    scenario: str
    trial: Callable[[], Broken | None]
    outcome: Broken | None = None
    skipped: str = ""  # why it was not explored
    fault: bool = False  # it was skipped although it had been reached: the kit's fault

    @property
    def verdict(self) -> str:
        """ "held", a finding's code, or "not explored"."""
        return NOT_EXPLORED if self.skipped else self.outcome.code if self.outcome else HELD


@dataclass
class Explored:
    """All that one exploration has tried, and what it could not try."""

    noun: str  # "crash point"
    points: list[Point] = field(default_factory=list)
    unexplored: list[str] = field(default_factory=list)

    @property
    def tried(self) -> list[Point]:
        """The points that were carried out."""
        return [point for point in self.points if not point.skipped]

    @property
    def broken(self) -> list[Point]:
        """The points at which something broke, in order."""
        return [point for point in self.points if point.outcome is not None]


def run(session: GradingSession, points: Sequence[Point], at_once: Number) -> None:
    """Carry out all trials, so many side by side and more of them while they only wait.

    Each gets its outcome.
    """
    places = Places(at_once, session.trials)

    def one(point: Point) -> None:
        with places.place():
            point.outcome, point.skipped, point.fault = attempt(session, point.trial)

    with ThreadPoolExecutor(session.trials.ceiling, thread_name_prefix="moment") as pool:
        for future in [pool.submit(one, point) for point in points]:
            future.result()


def attempt(
    session: GradingSession, trial: Callable[[], Broken | None]
) -> tuple[Broken | None, str, bool]:
    """Carry out one trial, and once more where it was felt: outcome, why skipped, whose fault."""
    for last in (False, True):
        if session.stopping:
            raise CouldNotGrade("The run was stopped.")
        try:
            return trial(), "", False
        except Felt as error:
            if last:
                return None, str(error), not isinstance(error, NotReached)
        except NotRecorded as error:
            return None, str(error), False
    raise AssertionError


def recordings(
    recorder: Recorder, scenarios: Sequence[Scenario], explored: Explored,
    unworked: Callable[[Scenario, Unworked], None] | None = None,
) -> Iterator[Recorded]:
    """The scenarios as they were recorded; what was not is put down as not explored.

    `unworked` is told of a task that was brought to an end without its work. Where no scenario
    could be recorded, there is nothing to explore: raises the NotRecorded of the first.
    """
    recorder.ahead(scenarios)
    problems: list[NotRecorded] = []
    told = 0
    for scenario in scenarios:
        try:
            recorded = recorder.recorded(scenario)
        except NotRecorded as error:
            if unworked is not None and isinstance(error, Unworked):
                unworked(scenario, error)
                told += 1
            else:
                explored.unexplored.append(f"{scenario.words}: {error}")
                problems.append(error)
            continue
        explored.unexplored += [f"{scenario.words}: {name}" for name in recorded.unaligned]
        told += 1
        yield recorded
    if problems and not told:
        raise problems[0]


# What has become of tasks ------------------------------------------------------------------------


def keep(stage: Stage, *more: Evidence, at: h.Event | None = None) -> Seen:
    """What a finding shows of a stage, now; `at` is where the timeline points."""
    stage.sync()
    stage.history.add(h.NOTE, "grader", "this broke", broke=True, event=at)
    evidence = [stage.evidence(stage.items), *more]
    evidence += [player.log_evidence() for player in stage.players]
    return Seen(tuple(stage.history.events()), tuple(stage.told), tuple(evidence))


def come_to(
    stage: Stage, player: Player, moment: Moment, hold: Hold | None, alive: bool = False
) -> None:
    """Wait until the player has come to a moment (and, if asked for, is alive there).

    Raises NotReached.
    """
    if not stage.come_to(player, moment, hold) or (alive and not player.alive):
        raise NotReached(f"{words.statement(moment)} did not come in this run")


def twice(execution: Execution) -> tuple[str, str] | None:
    """The code and sentence of an execution that should not have begun; None for a right one."""
    label = execution.item.label
    if execution.state == COMPLETED:
        return ("task-executed-twice", f"{execution.who} executed {label}, whose completion had "
                "been committed before")
    if execution.rivals:
        other = execution.rivals[-1].who
        return ("task-executed-twice", f"{execution.who} executed {label} while it was in the "
                f"hands of {other}, which was alive")
    return None


def first_twice(stage: Stage) -> tuple[Execution, str, str] | None:
    """The first execution of a stage that should not have begun."""
    for execution in stage.executions:
        earlier = [e for e in stage.executions if e.item is execution.item and e is not execution]
        if execution.state == COMPLETED and (
            not earlier or stage.executions.index(earlier[0]) > stage.executions.index(execution)
        ):
            return (execution, "completed-before-the-work",
                    f"{execution.item} was marked completed before its work was done")
        if (found := twice(execution)) is not None:
            return (execution, *found)
    return None


def wrong_end(item: Item, state: str | None, done: bool) -> tuple[str, str] | None:
    """What is wrong with how a task ended; `done`: its work was really done. None if nothing."""
    if state is None:
        return "task-lost", f"{item} is lost: there is no trace of it any more"
    if state == PROCESSING:
        return "task-left-in-processing", f"{item} stayed in “processing”"
    if state == PENDING:
        return "task-left-pending", f"{item} stayed “pending”"
    if state == COMPLETED and not done:
        return "task-wrongly-completed", f"{item} is “completed”, and its work was never done"
    if state == COMPLETED and item.fails:
        return "task-wrongly-completed", f"{item} is “completed”, and its work has failed"
    if state == FAILED and not item.fails:
        how = "was done" if done else "was never tried"
        return "task-wrongly-failed", f"{item} is “failed”, and its work {how}"
    return None


def done_twice(stage: Stage) -> Broken | None:
    """The first execution of a stage that should not have begun, with its moment."""
    if (found := first_twice(stage)) is None:
        return None
    execution, code, what = found
    return Broken(code, what, keep(stage, at=stage.arrival(execution.call)))


def wrong_ends(stage: Stage) -> Broken | None:
    """The first task of a stage that did not end as it should, now that all is over."""
    for item in stage.items:
        wrong = wrong_end(item, stage.state(item), bool(stage.executed(item)))
        if wrong is not None:
            return Broken(*wrong, keep(stage))
    return None


# Summing up --------------------------------------------------------------------------------------


def coverage(explored: Explored) -> Coverage:
    """What was covered, for results and reports."""
    return Coverage(
        noun=explored.noun,
        count=len(explored.tried),
        moments=tuple(
            MomentResult(p.label, p.where, p.scenario, p.verdict,
                         p.skipped or (p.outcome.what if p.outcome else ""))
            for p in explored.points
        ),
        unexplored=tuple(explored.unexplored),
    )  # fmt: skip


def judge(explored: Explored, expected: str) -> tuple[Finding, Seen | None] | None:
    """The finding of an exploration, or None; raises CouldNotGrade where nothing can be said."""
    broken = explored.broken
    if broken:
        return _finding(explored, expected, broken)
    faults = [point for point in explored.points if point.fault]
    if faults:
        raise CouldNotGrade(f"STEP={faults[0].label} ({faults[0].where}): {faults[0].skipped}.")
    if not explored.tried:
        why = [p.skipped for p in explored.points if p.skipped] + explored.unexplored
        told = f": {why[0]}" if why else ""
        raise CouldNotGrade(f"No {explored.noun} could be explored{told}.")
    return None


def _finding(
    explored: Explored, expected: str, broken: list[Point]
) -> tuple[Finding, Seen | None]:
    first = broken[0]
    assert first.outcome is not None
    alike = [p for p in broken if p.outcome.code == first.outcome.code]
    total = len(explored.tried)
    told = f"With {first.scenario}, {first.where}: {first.outcome.what}"
    seen = first.outcome.seen and first.outcome.seen.called(first.outcome.code)
    many = ""
    if len(alike) > 1:
        many = f" It broke alike at {len(alike)} of {total} {explored.noun}s."
    finding = Finding(
        first.outcome.code, expected, f"{told}.{many}",
        [_list_of(broken, total, explored.noun), *(seen.evidence if seen else ())],
    )  # fmt: skip
    return finding, seen


def _list_of(broken: list[Point], total: int, noun: str) -> Evidence:
    """All moments that broke: a line each, those that broke alike under one head."""
    lines: list[str] = []
    for code in dict.fromkeys(p.outcome.code for p in broken):
        group = [p for p in broken if p.outcome.code == code]
        lines.append(f"{code}, at {len(group)} of {total}:")
        lines += [f"  STEP={p.label}  {p.where}" for p in group]
    if len(lines) > MOST_LISTED:
        lines = [*lines[:MOST_LISTED], f"  … and {len(lines) - MOST_LISTED} more"]
    return Evidence(f"All {noun}s that broke", tuple(lines))
