"""Disconnect: all connections are cut at a step; does the worker come back, or make way?

Cut before the message reaches the server, or after the server has answered and before the worker
has heard. With several connections, the one of the step alone and the others alone too. Where the
answer is lost, the server also refuses new connections for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graders.harness.explore import words
from graders.harness.explore.points import (
    Broken,
    Explored,
    Point,
    come_to,
    done_twice,
    keep,
    recordings,
    run,
    wrong_end,
    wrong_ends,
)
from graders.harness.explore.record import Habits, Moment, Recorder, begin
from graders.harness.explore.stage import (
    FINAL,
    PENDING,
    PROCESSING,
    SHORT,
    WORLD,
    Player,
    Scenario,
    Setting,
    Stage,
)
from graders.harness.settings import per_core

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

EXPECTED = (
    "Whenever its connections are cut, the worker connects again and finishes the task and the "
    "next one, or ends with a status that is not 0 and its successor does."
)
AT_ONCE = 2  # points per core; more while these only wait
REFUSED = 0.25  # seconds for which new connections are refused, where they are

BEFORE, AFTER = "before", "after"


def explore(session: GradingSession, setting: Setting, only: str = "") -> Explored:
    """Cut the connections at each step; `only` names one point (STEP)."""
    recorder = Recorder.of(session, setting)
    explored = Explored("disconnect")
    habits = recorder.habits()
    known: set[tuple] = set()
    number = 0
    for recorded in recordings(recorder, setting.disconnect, explored):
        scenario = recorded.scenario
        for moment in recorded.moments:
            if moment.kind == "call-answer" or moment.alike in known:
                continue  # no connection to a server is spoken on; or it was the same before
            known.add(moment.alike)
            number += 1
            for letter, cut in zip("abcdefgh", _cuts(moment), strict=False):
                trial = Trial(setting, scenario, habits, moment, *cut)
                explored.points.append(Point(
                    f"{number}{letter}", trial.where, scenario.words,
                    lambda t=trial: t.run(session),
                ))  # fmt: skip
    explored.points = [p for p in explored.points if only in ("", p.label)]
    run(session, explored.points, lambda: per_core(AT_ONCE))
    return explored


def _cuts(moment: Moment) -> list[tuple[str, str]]:
    """When, and which connections."""
    # The answer to a command that was waiting is there already when it is a step.
    if moment.server == WORLD or moment.waits or moment.kind == "reply":
        return [(AFTER, "all")]
    cuts = [(BEFORE, "all"), (AFTER, "all")]
    if moment.connections > 1 and moment.kind != "connect":
        cuts += [(AFTER, "own"), (AFTER, "others")]
    return cuts


@dataclass
class Trial:
    """A worker whose connections are cut at one moment."""

    setting: Setting
    scenario: Scenario
    habits: Habits
    moment: Moment
    when: str
    which: str

    @property
    def where(self) -> str:
        """The moment in words."""
        at = words.after(self.moment) if self.when == AFTER else words.before(self.moment)
        what = {"all": "all connections", "own": "the connection it spoke on",
                "others": "its other connections"}[self.which]
        refused = ", new ones refused for a moment" if self._refuses else ""
        return f"{what} cut {at}{refused}"

    @property
    def _refuses(self) -> bool:
        return self.when == AFTER and self.which == "all"

    def run(self, session: GradingSession) -> Broken | None:
        """Carry it out; what broke."""
        stage = self.setting.open(session, f"cut-{self.scenario.name}")
        try:
            holds = []
            stage.holds_call = lambda _: self.moment.background  # it comes while work goes on
            player = begin(
                stage, self.scenario, self.habits, SHORT, stage.brief,
                lambda p: holds.append(p.hold(self.moment, self.when)),
            )  # fmt: skip
            come_to(stage, player, self.moment, holds[0], alive=True)
            self._cut(stage, player)
            for hold in filter(None, holds):
                hold.release()
            stage.answer_held()
            return self._judge(stage, player)
        finally:
            stage.close()

    def _cut(self, stage: Stage, player: Player) -> None:
        wire = player.wires[0]
        if self._refuses:
            for each in player.wires:
                each.refuse()
        if self.which == "all":
            player.cut()
        else:
            player.cut_off = True
            own = next(s.connection for s in reversed(player.steps()) if self.moment.is_step(s))
            for connection in wire.connections:
                if (connection.number == own) == (self.which == "own"):
                    wire.cut(connection.number)
        stage.tell(f"Cut: {self.where}.")
        if self._refuses:
            stage.wait(lambda: not player.alive, REFUSED)
            for each in player.wires:
                each.refuse(False)

    def _takes(self, stage: Stage) -> bool:
        """Whether the answer that is lost here is a job, which went with it (at-most-once)."""
        if not (self.setting.at_most_once and self.when == AFTER):
            return False
        return stage.takes(self.moment) and stage.state(stage.items[0]) is None

    def _judge(self, stage: Stage, player: Player) -> Broken | None:
        lost = self._takes(stage)
        if lost:
            stage.tell(f"{stage.items[0]} went with the answer that was lost; no worker can help "
                       "that.")
            stage.items.pop(0)
        for what in ("next",) if lost else ("task", "next"):
            if what == "next":
                stage.add_last()
                stage.tell("Added one more task.")
            item = stage.items[-1] if what == "next" else stage.items[0]
            stage.wait(lambda i=item: stage.state(i) in FINAL or not stage.players[-1].alive,
                       stage.budgets.work)
            if not stage.players[-1].alive and stage.state(item) not in FINAL:
                last = stage.players[-1]
                if last.exit.code == 0 or last is not player:
                    return self._broken(
                        stage, "worker-exited",
                        f"{last.name} {last.ending}" + (", so nobody would start another"
                                                        if last.exit.code == 0 else ""))
                successor = stage.player("worker-2", SHORT, stage.brief)
                successor.run()
                stage.tell(f"{player.name} {player.ending}; started its successor.")
                stage.wait(lambda i=item, s=successor: stage.state(i) in FINAL or not s.alive,
                           stage.reach_budget)
            if stage.state(item) not in FINAL:
                return self._not_done(stage, item, what == "next")
        return done_twice(stage) or wrong_ends(stage)

    def _not_done(self, stage: Stage, item: object, later: bool) -> Broken:
        player = stage.players[-1]
        state = stage.state(item)
        found = wrong_end(item, state, bool(stage.executed(item)))
        if not player.alive:
            return self._broken(stage, "worker-exited", f"{player.name} {player.ending}")
        if later:
            return self._broken(stage, "dead-connection", f"{player.name} lives on, and "
                                f"{item}, which was added later, stayed “{state}”")
        if state in (PENDING, PROCESSING):
            return self._broken(stage, "dead-connection" if state == PENDING else found[0],
                                f"{player.name} lives on, and {found[1]}")
        return self._broken(stage, *found)

    def _broken(self, stage: Stage, code: str, what: str) -> Broken:
        return Broken(code, what, keep(stage))
