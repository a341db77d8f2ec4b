"""Crash: SIGKILL in each gap between two steps; does another worker finish what was begun?

One kill per gap: once the world's call and its answer are steps, “after 7” and “before 8” leave
the same behind. What all killed workers left is then given, unchanged, to one other worker, which
was ready before it appeared and is never started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graders.harness.explore import replay, words
from graders.harness.explore.points import (
    Broken,
    Explored,
    Point,
    Seen,
    come_to,
    first_twice,
    keep,
    recordings,
    run,
    wrong_end,
)
from graders.harness.explore.record import (
    Habits,
    Moment,
    NotRecorded,
    Recorder,
    Unworked,
    begin,
)
from graders.harness.explore.stage import (
    COMPLETED,
    FINAL,
    HOUR,
    SHORT,
    Item,
    Player,
    Scenario,
    Setting,
    Stage,
)
from graders.harness.results import Evidence
from graders.harness.settings import per_core

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

EXPECTED = (
    "Whenever the worker is killed (SIGKILL), another worker brings its task to the right end."
)
AT_ONCE = 2  # points per core; more while these only wait


def explore(session: GradingSession, setting: Setting, only: str = "") -> Explored:
    """Kill the worker at each of its steps; `only` names one point (STEP)."""
    recorder = Recorder.of(session, setting)
    explored = Explored("crash point")
    habits = recorder.habits()
    trials: list[Trial] = []
    unworked: list[Point] = []
    known: set[tuple] = set()
    for recorded in recordings(recorder, setting.crash, explored,
                               lambda *found: unworked.append(_unworked(*found))):
        first = recorded.first_poll(habits)
        for index, moment in enumerate(recorded.moments):
            # What comes before it has read the queue, or after the record of its work, is the same
            # whatever the queue held: once is enough.
            apart = trials and (index < first or _recorded_by(recorded.moments, index))
            if apart and moment.alike in known:
                continue
            known.add(moment.alike)
            trials.append(Trial(setting, recorded.scenario, moment, habits))
    for number, trial in enumerate(trials, 1):
        where = f"killed {words.after(trial.moment)}"
        point = Point(str(number), where, trial.scenario.words, lambda t=trial: t.kill(session))
        explored.points.append(point)
    explored.points = [p for p in explored.points if only in ("", p.label)]
    by_label = {p.label: trials[int(p.label) - 1] for p in explored.points}
    if explored.points:
        run_with_survivor(session, Survivor(session, setting, habits), explored, by_label)
    for number, point in enumerate(unworked, len(trials) + 1):
        point.label = str(number)
    explored.points += [p for p in unworked if only in ("", p.label)]
    return explored


def _unworked(scenario: Scenario, error: Unworked) -> Point:
    """A scenario whose task was brought to an end without its work: no need to kill anybody."""
    code, what = wrong_end(error.item, error.state, False)
    point = Point("", "left alone", scenario.words, lambda: None)
    point.outcome = Broken(code, what, Seen((), (f"Started a worker on {scenario.words}.",),
                                            error.evidence))
    return point


def _recorded_by(moments: tuple[Moment, ...], index: int) -> bool:
    """Whether this moment comes after the record of the work, in the idle poll."""
    answers = [i for i, m in enumerate(moments) if m.kind == "call-answer"]
    return bool(answers) and index > answers[-1] + 1


@dataclass
class Trial:
    """A worker that is killed at one moment."""

    setting: Setting
    scenario: Scenario
    moment: Moment
    habits: Habits
    stage: Stage | None = None
    left: Any = None
    items: tuple[Item, ...] = ()
    seen: Seen | None = None

    def kill(self, session: GradingSession) -> Broken | None:
        """Start it, kill it at its moment, and keep what it leaves."""
        stage = self.setting.open(session, f"crash-{self.scenario.name}")
        try:
            holds = []
            stage.holds_call = lambda _: self.moment.background  # it comes while work goes on
            player = begin(stage, self.scenario, self.habits, HOUR, stage.brief,
                           lambda p: holds.append(p.hold(self.moment)))
            come_to(stage, player, self.moment, holds[0])
            self.leave(stage, player, f"Killed {player.name} with SIGKILL "
                       f"{words.after(self.moment)}.")
        finally:
            stage.close()
        return None

    def leave(self, stage: Stage, player: Player, told: str) -> None:
        """Kill it now, and keep what it leaves."""
        player.kill()
        stage.attend()
        stage.sync()
        stage.tell(told)
        self.stage, self.items = stage, tuple(stage.items)
        self.left = stage.left()
        self.seen = keep(stage)  # the stage is gone when another worker shows what became of it


class Survivor:
    """One worker that was ready before anybody crashed, and gets everything that is left."""

    def __init__(self, session: GradingSession, setting: Setting, habits: Habits) -> None:
        self.stage = setting.open(session, "survivor")
        self.habits = habits
        self.at_most_once = setting.at_most_once
        self.done_at = 0
        self.player = self.stage.player("survivor", SHORT, self.stage.brief)
        self.player.run()

    def judge(self, trials: dict[str, Trial]) -> dict[str, Broken]:
        """Give it what all trials left; what broke, by the labels of their points."""
        stage, player = self.stage, self.player
        polls = lambda since: stage.polled(player, self.habits.begins_poll, since)  # noqa: E731
        stage.wait(lambda: polls(0) >= 2 or not player.alive, stage.reach_budget)
        if not player.alive:
            raise NotRecorded(f"its second worker {player.ending}")
        if stage.session.options.step:
            replay.follow(stage, len(stage.history))
        for trial in trials.values():
            stage.give(trial.left, trial.items)
            stage.attend()  # a call that waits for long would be overdue
        last = stage.add_last()
        stage.hastens = True

        def quiet() -> bool:
            """Whether what is still missing can come no more: the youngest is done, and it has
            polled twice since. Asked where jobs may be lost, else each is waited for."""
            if not self.at_most_once or stage.state(last) not in FINAL:
                return False
            self.done_at = self.done_at or len(stage.history)
            return polls(self.done_at) >= 2

        # As long as tasks come to their ends, it is at work: each end renews its time.
        ended = -1
        while ended < (now := stage.final_count()) < len(stage.items) and player.alive:
            ended = now
            stage.wait(lambda n=ended: stage.final_count() > n or not player.alive or quiet(),
                       stage.budgets.work)
        return {label: Broken(*found, self._seen(trial))
                for label, trial in trials.items() if (found := self._wrong(trial))}

    def _wrong(self, trial: Trial) -> tuple[str, str] | None:
        before = first_twice(trial.stage)
        if before is not None:
            return before[1], before[2]
        for item in trial.items:
            mine = [e for e in self.stage.executions if e.item.id == item.id]
            done = bool(trial.stage.executed(item)) or bool(mine)
            state = self.stage.state(item)
            if state not in FINAL and not self.player.alive:
                return ("worker-exited", f"another worker {self.player.ending} when it came to "
                        f"{item}, which stayed “{state}”")
            found = wrong_end(item, state, done)
            if found is not None:
                return found
            again = next((e for e in mine if e.state == COMPLETED), None)
            if again is not None:
                if trial.stage.executed(item) or again is not mine[0]:
                    return ("task-executed-twice", f"{again.who} executed {item}, which was "
                            "recorded as completed before")
                return ("completed-before-the-work",
                        f"{item} was marked completed before its work was done")
        return None

    def _seen(self, trial: Trial) -> Seen:
        row, *logs = trial.seen.evidence
        became = Evidence(
            "What was left, and what became of it with another worker",
            (*row.lines, *self.stage.evidence(trial.items).lines),
        )
        told = ("Gave what was left, unchanged, to another worker, which was ready before and went "
                "on polling.")
        return Seen(trial.seen.events, (*trial.seen.told, told),
                    (became, *logs, self.player.log_evidence()))

    def close(self) -> None:
        """End it."""
        self.stage.close()


def run_with_survivor(
    session: GradingSession, survivor: Survivor, explored: Explored, trials: dict[str, Trial]
) -> None:
    """Carry out all points, and let the survivor have what those of `trials` left."""
    try:
        run(session, explored.points, lambda: per_core(AT_ONCE))
        by_label = {point.label: point for point in explored.points}
        killed = {label: trial for label, trial in trials.items()
                  if trial.stage is not None and by_label[label].outcome is None}
        if killed:
            for label, broken in survivor.judge(killed).items():
                by_label[label].outcome = broken
    finally:
        survivor.close()
