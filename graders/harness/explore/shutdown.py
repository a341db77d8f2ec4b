"""Shutdown: SIGTERM while the answer to a step is on its way; is what was begun finished?

The answer is let through (a) at once, or (b) a quarter of a second after the signal was taken. For
a task in hand, SIGTERM is also followed by SIGKILL at each later step, as a deploy does that has
waited for too long: what is left then is given to another worker, as after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graders.harness.explore import words
from graders.harness.explore.crash import AT_ONCE, Survivor, Trial, run_with_survivor
from graders.harness.explore.points import (
    Broken,
    Explored,
    Point,
    come_to,
    first_twice,
    keep,
    recordings,
    run,
    wrong_end,
)
from graders.harness.explore.record import (
    KINDS,
    UNHEARD,
    Habits,
    Moment,
    Recorded,
    Recorder,
    begin,
)
from graders.harness.explore.stage import (
    COMPLETED,
    HOUR,
    PENDING,
    PROCESSING,
    WORLD,
    Player,
    Scenario,
    Setting,
    Stage,
    said,
)
from graders.harness.settings import per_core

if TYPE_CHECKING:
    from graders.harness.session import GradingSession
    from graders.harness.steps import Step

EXPECTED = (
    "Whenever SIGTERM comes, the worker finishes and records what it has in hand, takes nothing "
    "more, and ends with status 0."
)
LATER = 0.25  # seconds between the signal and the answer, in the second variant
VARIANTS = {"a": "the answer came at once", "b": "the answer came 250 ms later"}


def explore(session: GradingSession, setting: Setting, only: str = "") -> Explored:
    """Send SIGTERM at each step; `only` names one point (STEP)."""
    recorder = Recorder.of(session, setting)
    explored = Explored("shutdown")
    habits = recorder.habits()
    known: set[tuple] = set()
    number = 0
    in_hand: Stop | None = None
    for recorded in recordings(recorder, setting.shutdown, explored):
        scenario = recorded.scenario
        for moment, ready in _moments(recorded, habits, known):
            number += 1
            for variant in VARIANTS:
                stop = Stop(setting, scenario, habits, moment, ready, variant)
                explored.points.append(Point(
                    f"{number}{variant}",
                    f"SIGTERM {words.after(moment)}; {VARIANTS[variant]}",
                    scenario.words, lambda s=stop: s.run(session),
                ))  # fmt: skip
                if moment.kind == "call" and variant == "b" and in_hand is None:
                    in_hand = stop
    explored.points = [p for p in explored.points if only in ("", p.label)]
    run(session, explored.points, lambda: per_core(AT_ONCE))
    # Where a job may be lost with its worker, SIGKILL says nothing of how it stops.
    if in_hand is not None and (not only or only.isdigit()) and not setting.at_most_once:
        _then_killed(session, in_hand, explored, number, only)
    return explored


def _moments(
    recorded: Recorded, habits: Habits, known: set[tuple]
) -> list[tuple[Moment, bool]]:
    """Each moment that is like none before, and whether the worker is ready by then.

    A second task goes the way of the first: what was said and answered alike is explored once. Of
    failing work only what is its own is explored.
    """
    found = []
    first = recorded.first_poll(habits)
    answered = [i for i, m in enumerate(recorded.moments) if m.kind == "call-answer"]
    for index, moment in enumerate(recorded.moments):
        alike = moment.alike
        if moment.server == WORLD:
            alike = (moment.server, moment.kind, (str(recorded.scenario.fails),))
        elif recorded.scenario.fails and answered and index == answered[0] + 1:
            alike = (*alike, "the record of failed work")
        if alike not in known:
            found.append((moment, index > first))
        known.add(alike)
    return found


def _then_killed(
    session: GradingSession, in_hand: Stop, explored: Explored, number: int, only: str
) -> None:
    """SIGTERM while a task is in hand, and SIGKILL at each step that follows."""
    later = in_hand.followed or _followed(session, in_hand)
    trials = {}
    points = []
    for moment in later:
        number += 1
        if only not in ("", str(number)):
            continue
        trial = Killed(in_hand.setting, in_hand.scenario, moment, in_hand.habits)
        trial.call = in_hand.moment
        trials[str(number)] = trial
        points.append(Point(
            str(number),
            f"SIGTERM {words.after(in_hand.moment)}, and SIGKILL {words.after(moment)}",
            in_hand.scenario.words, lambda t=trial: t.kill(session),
        ))  # fmt: skip
    if not points:
        return
    survivor = Survivor(session, in_hand.setting, in_hand.habits)
    last = Explored(explored.noun, points)
    run_with_survivor(session, survivor, last, trials)
    explored.points += last.points


def _followed(session: GradingSession, in_hand: Stop) -> list[Moment]:
    in_hand.run(session)
    return in_hand.followed


@dataclass
class Stop:
    """A worker that is told to stop at one moment."""

    setting: Setting
    scenario: Scenario
    habits: Habits
    moment: Moment
    ready: bool  # it has polled by then, so its signal handlers are in place
    variant: str

    def __post_init__(self) -> None:
        self.followed: list[Moment] = []  # the steps it took after the signal

    def run(self, session: GradingSession) -> Broken | None:
        """Carry it out; what broke."""
        stage = self.setting.open(session, f"stop-{self.scenario.name}")
        try:
            player, since = stop_at(
                stage, self.scenario, self.habits, self.moment, self.variant
            )
            stage.wait(lambda: not player.alive, stage.budgets.shutdown)
            for wire in player.wires:
                wire.wait_closed(stage.budgets.work)
            stage.attend()
            stage.sync()
            self.followed = _later(player, since, self.habits)
            return self._judge(stage, player, since)
        finally:
            stage.close()

    def _judge(self, stage: Stage, player: Player, since: int) -> Broken | None:
        def broken(code: str, what: str) -> Broken:
            return Broken(code, what, keep(stage))

        if player.alive:
            budget = stage.budgets.shutdown
            return broken("still-running", f"{player.name} was still running {budget:.0f} s later")
        for item in stage.items:
            if found := self._wrong(stage, item):
                return broken(found[0], f"{player.name} {player.ending}, and {found[1]}")
        if (found := first_twice(stage)) is not None:
            return broken(found[1], found[2])
        if not self.ready:
            return None  # it may not have set up its handlers yet
        if player.exit.code != 0:
            return broken("wrong-exit-status", f"{player.name} {player.ending}")
        begun = self._polls_begun(player, since)
        # At once means that the signal and the answer race: one more poll may have been decided
        # upon before the handler ran, though its first message came after.
        if len(begun) > (1 if self.variant == "a" else 0):
            return broken("claimed-after-stop", f"{player.name} polled again after it had taken "
                          "the signal")
        return None

    def _polls_begun(self, player: Player, since: int) -> list[Step]:
        """The polls of which even the first step came after that event.

        A poll may begin before it names its queue: with a BEGIN, or with opening a connection.
        """
        if self.habits.many:
            return []  # whose poll begins with which step cannot be told apart
        opening = self.habits.idle[0][0]
        later = {id(step) for step in player.steps(since=since)}
        begun = []
        last: dict[tuple[str, int], Step] = {}
        for step in player.steps():
            where = (step.server, step.connection)
            if step.name == opening:
                last[where] = step
            if self.habits.begins_poll(step) and id(step) in later and where in last \
                    and id(last[where]) in later:
                begun.append(step)
        return begun

    def _wrong(self, stage: Stage, item: object) -> tuple[str, str] | None:
        state = stage.state(item)
        executions = stage.executed(item)
        if not executions:
            if state == PENDING:
                return None
            if state == PROCESSING:
                return ("task-left-in-processing",
                        f"{item}, which it had not begun to work on, stayed in “processing”")
        answered = any(e.call.answered_at is not None for e in executions)
        if executions and not answered and state != COMPLETED:
            left = f"which is “{state}”" if state else "of which there is no trace any more"
            return "task-dropped-on-stop", f"it gave up the work of {item}, {left}"
        if executions and state == PENDING:
            return ("task-dropped-on-stop", f"{item}, whose work was done, is “pending” again")
        return wrong_end(item, state, bool(executions))


def stop_at(
    stage: Stage, scenario: Scenario, habits: Habits, moment: Moment, variant: str
) -> tuple[Player, int]:
    """Start a worker, send SIGTERM at the moment, and let the answer through.

    Returns it, and the number of the event from which on it had the signal and its answer.
    """
    holds = []
    stage.holds_call = lambda _: moment.background  # it comes while work goes on
    player = begin(stage, scenario, habits, HOUR, HOUR, lambda p: holds.append(p.hold(moment)))
    come_to(stage, player, moment, holds[0], alive=True)
    player.terminate(taken=variant == "b")
    stage.tell(f"Sent SIGTERM {words.after(moment)}.")
    if variant == "b":
        stage.wait(lambda: not player.alive, LATER)
        since = len(stage.history)
    for hold in filter(None, holds):
        hold.release()
    stage.tell(f"{VARIANTS[variant][:1].upper()}{VARIANTS[variant][1:]}.")
    if variant == "a":
        # Until its handler has run it may begin one more poll; what that finds is held.
        stage.holds_call = lambda _: True
        player.process.wait_signal_taken(stage.budgets.shutdown)
        for wire in player.wires:
            wire.settle(stage.budgets.shutdown, blocked_ok=True)
        stage.attend()
        since = len(stage.history)
    stage.answer_held()
    return player, since


def _later(player: Player, since: int, habits: Habits) -> list[Moment]:
    """The steps that a worker took after the signal, as moments."""
    return [
        Moment(**said(step)) for step in player.steps(since=since)
        if step.kind in KINDS and step.kind != UNHEARD and step.name not in habits.background
    ]  # fmt: skip


@dataclass
class Killed(Trial):
    """A worker that has a task in hand, is told to stop, and is killed at a later step."""

    call: Moment | None = None

    def kill(self, session: GradingSession) -> Broken | None:
        """Carry it out, and keep what it leaves."""
        stage = self.setting.open(session, f"killed-{self.scenario.name}")
        try:
            holds = []
            player = begin(
                stage, self.scenario, self.habits, HOUR, stage.brief,
                lambda p: holds.extend((p.hold(self.call), p.hold(self.moment))),
            )
            come_to(stage, player, self.call, holds[0])
            player.terminate(taken=True)
            stage.tell(f"Sent SIGTERM {words.after(self.call)}.")
            holds[0].release()
            come_to(stage, player, self.moment, holds[1])
            self.leave(stage, player, f"Killed {player.name} with SIGKILL "
                       f"{words.after(self.moment)}.")
        finally:
            stage.close()
        return None
