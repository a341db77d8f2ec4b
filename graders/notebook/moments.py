"""Every moment of a program, as a notebook looks at it: tables, a race, a pause at each step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from graders.harness import history as h
from graders.harness.check import CouldNotGrade
from graders.harness.explore import acts, words
from graders.harness.explore.checks import EXPLORATIONS, explored_by
from graders.harness.explore.points import Explored, Point
from graders.harness.explore.record import Moment, Recorder, begin
from graders.harness.explore.stage import (
    FAILING_WORK,
    HOUR,
    PENDING_TASK,
    STUCK_TASK,
    THREE_TASKS,
    Setting,
)
from graders.harness.results import HELD
from graders.harness.session import GradingSession
from graders.harness.settings import per_core
from graders.harness.steps import Step
from graders.notebook.problem import Problem
from graders.notebook.tables import Table

SCENARIOS = {s.name: s for s in (PENDING_TASK, THREE_TASKS, STUCK_TASK, FAILING_WORK)}
WELL = "all is well"
TURN = 0.2  # seconds
STOP_TIME = 15.0  # seconds that what was stopped has to end
AT_ONCE = 3  # workers per core that are paused side by side

T = TypeVar("T")


def after(statement: str) -> Callable[[Step], bool]:
    """For `hold=`: a step that begins with these words ("SELECT", "RPOP"), once it is answered."""

    def begins(step: Step) -> bool:
        return step.words.lstrip().lower().startswith(statement.lower())

    return begins


before = after  # for `hold_before=`: the same step, before the server hears it


def interruptible(work: Callable[[], T], stop: Callable[[], object]) -> T:
    """What `work` returns, done by another thread: this one hears the stop button meanwhile.

    `stop` is called then, and the work has some seconds to end.
    """
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:
            done.append((None, error))

    thread = threading.Thread(target=run, name="cell", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(TURN)
    except BaseException:
        stop()
        thread.join(STOP_TIME)
        raise
    value, error = done[0]
    if error is not None:
        raise error
    return value


def add_work(room: Any) -> Any:
    """Add a task, or push a job, whichever this lab has."""
    return room.add_task() if hasattr(room, "add_task") else room.add_job()


def setting_of(session: GradingSession) -> Setting:
    """The queue of this lab, as the explorations see it."""
    if "postgres" in session.info.services:
        from graders.lab03.moments import SETTING
    else:
        from graders.lab01.moments import SETTING
    return SETTING


@dataclass(frozen=True)
class Moments:
    """All moments of an exploration, and what came of each."""

    noun: str
    points: tuple[Point, ...]
    unexplored: tuple[str, ...]

    @property
    def table(self) -> Table:
        """One row for each moment, in the order in which the program comes to it."""
        rows = tuple(
            (p.label, p.where, WELL if p.verdict == HELD else
             p.outcome.what if p.outcome else f"not tried: {p.skipped}")
            for p in self.points
        )  # fmt: skip
        broken = sum(p.outcome is not None for p in self.points)
        plural = "" if len(rows) == 1 else "s"
        return Table(("step", "moment", "what came of it"), rows,
                     f"{len(rows)} {self.noun}{plural}; {broken} broke")

    @property
    def broken(self) -> list[str]:
        """The labels of the moments at which something broke."""
        return [p.label for p in self.points if p.outcome is not None]

    def at(self, label: str) -> Any:
        """What was seen at a moment that broke, for Bench.timeline. Raises Problem."""
        point = next((p for p in self.points if p.label == label), None)
        if point is None:
            raise Problem(f"There is no step {label}; the table has {self.points[0].label} to "
                          f"{self.points[-1].label}.")
        if point.outcome is None:
            raise Problem(f"At step {label} nothing broke; it broke at "
                          f"{', '.join(self.broken) or 'none'}.")
        return point.outcome.seen

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def __repr__(self) -> str:
        return repr(self.table)


def explore(
    session: GradingSession, kind: str, act: acts.Act | None, scenarios: Sequence[str]
) -> Moments:
    """Try every moment of one kind. Raises Problem for a kind or scenario that there is not."""
    if kind not in EXPLORATIONS:
        raise Problem(f"There is no exploration “{kind}”; there are {', '.join(EXPLORATIONS)}.")
    if unknown := [name for name in scenarios if name not in SCENARIOS]:
        raise Problem(f"There is no scenario “{unknown[0]}”; there are {', '.join(SCENARIOS)}.")
    room = session.room(f"notebook-{kind}")
    try:
        explored = _explored(session, room, kind, act, scenarios)
    finally:
        room.close()
    return Moments(explored.noun, tuple(explored.points), tuple(explored.unexplored))


def _explored(
    session: GradingSession, room: Any, kind: str, act: acts.Act | None, scenarios: Sequence[str]
) -> Explored:
    if act is not None:
        return acts.explored(room, kind, act)
    run, _ = EXPLORATIONS[kind]
    return explored_by(room, run, _only(setting_of(session), scenarios))


def _only(setting: Setting, scenarios: Sequence[str]) -> Setting:
    """The setting with these scenarios alone, whatever is explored.

    It keeps its name: habits and recordings are those of the whole setting.
    """
    chosen = tuple(SCENARIOS[name] for name in scenarios)
    return replace(setting, crash=chosen, interleave=chosen, shutdown=chosen, disconnect=chosen)


# One worker, paused ------------------------------------------------------------------------------


def pause_at_each_step(session: GradingSession) -> Table:
    """Each step of a worker with one pending task, and what others see while it stands there."""
    setting = _only(setting_of(session), [PENDING_TASK.name])
    recorder = Recorder.of(session, setting)  # what is recorded here, explorations need not again
    recorded = recorder.recorded(PENDING_TASK)
    habits = recorder.habits()

    def look(numbered: tuple[int, Moment]) -> tuple[str, ...] | None:
        number, moment = numbered
        stage = setting.open(session, f"pause-{number}")
        try:
            holds: list[Any] = []
            player = begin(stage, PENDING_TASK, habits, HOUR, HOUR,
                           lambda p: holds.append(p.hold(moment)))
            stage.holds_call = lambda _: moment.kind == "call"
            if not stage.come_to(player, moment, holds[0]):
                return None
            state = stage.state(stage.items[0]) or "gone"
            free = "yes" if stage.has_free_task() else "no"
            return str(number), words.after(moment), state, free
        finally:
            stage.close()

    numbered = list(enumerate(_told_once(recorded.moments), 1))
    with ThreadPoolExecutor(per_core(AT_ONCE)) as pool:
        rows = [row for row in pool.map(look, numbered) if row is not None]
    heads = ("step", "the worker stands …", "what others see of the task", "could they take it?")
    return Table(heads, tuple(rows))


def _told_once(moments: Sequence[Moment]) -> list[Moment]:
    """Without a second idle poll, which is like the first."""
    seen: set[tuple] = set()
    kept = []
    for moment in moments:
        if moment.alike not in seen and not moment.background:
            kept.append(moment)
        seen.add(moment.alike)
    return kept


# Two workers, led to the same step ---------------------------------------------------------------


@dataclass(frozen=True)
class Race:
    """Two workers and one task: who executed it, and the room in which that was seen."""

    room: Any
    executions: tuple[tuple[str, str], ...]  # worker, task

    def __repr__(self) -> str:
        lines = [f"{worker} executed {task}" for worker, task in self.executions]
        return "\n".join(lines or ["nobody executed anything"])


def race(session: GradingSession, at: str) -> Race:
    """Both are held after the step that begins with `at`; then both go on to their ends."""
    room = session.room("notebook-race")
    try:
        task = add_work(room)
        workers = [room.start_worker(hold=after(at), ready=False) for _ in range(2)]
        for worker in workers:
            _stand(room, worker, at)
        room.tell(f"Both had come as far as they can before the other goes on, at {at}.")
        room.world.answer_all()
        for worker in workers:
            worker.hold_no_more()
        _see_them_rest(room, workers)
        calls = sorted((c.process, room.label(c.task_id)) for c in room.world.calls)
        room.history.add(h.NOTE, "grader", f"{len(calls)} executions of {task}")
        return Race(room, tuple(calls))
    finally:
        room.close()


def _stand(room: Any, worker: Any, at: str) -> None:
    """Wait until it is held at its step, or waits at the server for the other's lock."""

    def stands() -> bool:
        return bool(worker.held_step or not worker.alive or worker.calls
                    or any(room.is_blocked(b) for b in worker.backends))

    budgets = room.budgets
    left = budgets.boot + budgets.ready + budgets.work
    while not stands() and left > 0:
        began = room.history.now()
        room.history.wait(lambda _: True, TURN, len(room.history))
        left -= min(room.history.now() - began, TURN)  # as History.wait_until counts
    if not stands():
        raise CouldNotGrade(f"{worker.name} has no step that begins with “{at}”, or did not come "
                            "to it.")
    worker.fail_if_ended(f"{worker.name} comes to its step {at}.")


def _see_them_rest(room: Any, workers: Sequence[Any]) -> None:
    """Wait until each has polled twice more, or has ended."""
    since = len(room.history)
    for worker in workers:
        worker.wait(lambda _, w=worker: w.polls(since) >= 2, room.budgets.work)
    room.sync()
