"""Explorations of a single act: a request to an API, or a run of migrations.

An act has a beginning, some steps with the store, and an end. At each of these steps the program is
killed, told to stop, or cut off; or a second run of it begins. What must be true afterwards, the
lab says (`Act.judge`). Moments and their names are those of the other explorations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graders.harness import history as h
from graders.harness.api import Api, Request
from graders.harness.check import Finding
from graders.harness.explore import replay, words
from graders.harness.explore.checks import not_recorded, report
from graders.harness.explore.disconnect import AFTER, BEFORE
from graders.harness.explore.points import (
    Broken,
    Explored,
    NotReached,
    Point,
    Seen,
    run,
)
from graders.harness.explore.record import KINDS, UNHEARD, Moment, NotRecorded, Once
from graders.harness.explore.shutdown import LATER, VARIANTS
from graders.harness.explore.stage import TURN, said
from graders.harness.program import Program, how_it_ended
from graders.harness.results import Evidence
from graders.harness.room import Room
from graders.harness.settings import per_core
from graders.harness.steps import Hold, Step

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

CRASH, SHUTDOWN, DISCONNECT, INTERLEAVING = "crash", "shutdown", "disconnect", "interleaving"
NOUNS = {CRASH: "crash point", SHUTDOWN: "shutdown", DISCONNECT: "disconnect",
         INTERLEAVING: "interleaving"}
AT_ONCE = 2  # trials per core; more while these only wait

_numbers = itertools.count(1)


@dataclass
class Acted:
    """An act that has begun: the program that carries it out, and the request if it is one."""

    program: Program
    request: Request | None = None
    data: dict[str, Any] = field(default_factory=dict)  # the lab's own

    @property
    def over(self) -> bool:
        """Whether it has come to its end, whichever."""
        return not self.program.alive or (self.request is not None and self.request.over)


class Act:
    """What a lab says about an act of its programs."""

    words = "the request"  # "POST /tasks"
    who = "the API"  # that carries it out, in sentences

    def prepare(self, room: Room) -> Program | None:
        """Make all ready, and return the program if it runs already (an API)."""
        return None

    def begin(self, room: Room, hold: Callable[[Program], None]) -> Acted:
        """Begin the act. `hold` is to be called with the program before it can take a step."""
        raise NotImplementedError

    def went_well(self, room: Room, acted: Acted) -> tuple[str, str] | None:
        """The code and the sentence of what was wrong although nothing disturbed it; else None."""
        raise NotImplementedError

    def judge(self, kind: str, room: Room, acted: Acted) -> tuple[str, str] | None:
        """The code and the sentence of what broke, after it was disturbed; None if nothing did."""
        raise NotImplementedError

    def evidence(self, room: Room, acted: Acted) -> list[Evidence]:
        """What is stored now, to be shown."""
        return []


class Post(Act):
    """A request that stores something: POST with `data`, answered with 201."""

    path = "/tasks"
    data: Mapping[str, Any] = MappingProxyType({})

    @property
    def words(self) -> str:
        return f"POST {self.path}"

    def prepare(self, room: Room) -> Program:
        return room.start_api()

    def begin(self, room: Room, hold: Callable[[Program], None]) -> Acted:
        api = room.programs[0]
        hold(api)
        request = api.send("POST", self.path, dict(self.data))
        room.tell(f"Sent {request.shown}.")
        return Acted(api, request)

    def went_well(self, room: Room, acted: Acted) -> tuple[str, str] | None:
        answer = acted.request.answer
        if answer is None:
            return ("request-unanswered",
                    f"{acted.request.shown} was not answered: {acted.request.problem}")
        if answer.status != 201:
            return "wrong-status-code", f"{acted.request.shown} was answered {answer.shown}"
        return self.wrongly_stored(room)

    def wrongly_stored(self, room: Room) -> tuple[str, str] | None:
        """The code and the sentence of what is wrong with what was stored, now that all is over."""
        raise NotImplementedError


def explore(lab: Room, kind: str, act: Act, expected: str) -> None:
    """Disturb the act at each of its steps; raises the finding of the first that broke."""
    report(lab, explored(lab, kind, act), expected)


def explored(lab: Room, kind: str, act: Act) -> Explored:
    """What came of it at each of its steps. Raises a Finding where there is nothing to disturb."""
    session = lab.session
    step = session.options.step
    found = Explored(NOUNS[kind])
    try:
        moments, unaligned = recorded(session, act)
    except NotRecorded as error:
        raise not_recorded(lab, error, f"{act.words} works") from None
    found.unexplored += unaligned
    for number, moment in enumerate(moments, 1):
        for letter, trial in _trials(kind, act, moment):
            found.points.append(Point(
                f"{number}{letter}", trial.where, act.words, lambda t=trial: t.run(session)
            ))  # fmt: skip
    found.points = [p for p in found.points if step in ("", p.label)]
    run(session, found.points, lambda: per_core(AT_ONCE))
    return found


def _trials(kind: str, act: Act, moment: Moment) -> list[tuple[str, Trial]]:
    if kind == SHUTDOWN:
        return [(v, Trial(kind, act, moment, AFTER, v)) for v in VARIANTS]
    if kind == DISCONNECT:
        return [("a", Trial(kind, act, moment, BEFORE)), ("b", Trial(kind, act, moment, AFTER))]
    return [("", Trial(kind, act, moment, AFTER))]


# Recording ---------------------------------------------------------------------------------------


def recorded(session: GradingSession, act: Act) -> tuple[list[Moment], list[str]]:
    """The steps of an act as they came twice, and the names that came in one recording only."""
    with session.memo_lock:
        once = session.memo.setdefault("acts", Once())
    return once.get(type(act), lambda: _record_twice(session, act))


def _record_twice(session: GradingSession, act: Act) -> tuple[list[Moment], list[str]]:
    takes = [_record(session, act) for _ in range(2)]
    in_both = {m.key for m in takes[0]} & {m.key for m in takes[1]}
    odd = {words.statement(m) for take in takes for m in take if m.key not in in_both}
    return [m for m in takes[0] if m.key in in_both], sorted(odd)


def _record(session: GradingSession, act: Act) -> list[Moment]:
    room = session.room(f"act-{next(_numbers)}")
    room.uses_again = True
    try:
        acted, since = _begin(room, act, lambda program: None)
        _wait_over(room, acted)
        if wrong := act.went_well(room, acted):
            raise NotRecorded(f"undisturbed, {wrong[1]}", wrong[0])
        acted.program.wire.settle(room.budgets.work)
        steps = [e.data["step"] for e in
                 room.history.events(h.STEP_ARRIVED, who=acted.program.name, since=since)]
        return [Moment(**said(step)) for step in steps
                if step.kind in KINDS and step.kind != UNHEARD]
    except Finding as found:
        raise NotRecorded(f"undisturbed, {found.expected} {found.seen}".rstrip("."),
                          found.code) from None
    finally:
        room.close()


def _begin(room: Room, act: Act, hold: Callable[[Program], None]) -> tuple[Acted, int]:
    program = act.prepare(room)
    if program is not None:
        program.wire.settle(room.budgets.work)
        program.wire.begin()  # names count anew: what made it ready is no part of the act
    since = len(room.history)
    return act.begin(room, hold), since


def _wait_over(room: Room, acted: Acted) -> bool:
    budgets = room.budgets
    room.history.wait_until(lambda _: acted.over, budgets.boot + 2 * budgets.work)
    return acted.over


# Trials ------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """One act that is disturbed at one moment."""

    kind: str
    act: Act
    moment: Moment
    when: str
    variant: str = ""

    @property
    def where(self) -> str:
        """The moment in words."""
        who = self.act.who
        at = (words.after(self.moment, who) if self.when == AFTER else words.before(self.moment))
        if self.kind == CRASH:
            return f"killed {at}"
        if self.kind == SHUTDOWN:
            return f"SIGTERM {at}; {VARIANTS[self.variant]}"
        if self.kind == DISCONNECT:
            return f"all connections cut {at}"
        return f"a second run {at}"

    def run(self, session: GradingSession) -> Broken | None:
        """Carry it out; what broke."""
        room = session.room(f"{self.kind}-{next(_numbers)}")
        room.uses_again = True
        if session.options.step:
            replay.follow(room)
        holds: list[Hold] = []

        def hold(program: Program) -> None:
            def is_it(step: Step) -> bool:
                return step.process == program.name and self.moment.is_step(step)

            holds.append(program.wire.hold(is_it, self.when))

        try:
            acted, _ = _begin(room, self.act, hold)
            if not self._reached(room, acted, holds[0]):
                raise NotReached(f"{words.statement(self.moment)} did not come in this run")
            getattr(self, f"_{self.kind}")(room, acted, holds[0])
            broken = self.act.judge(self.kind, room, acted)
            return None if broken is None else Broken(*broken, self._keep(room, acted))
        except Finding as found:
            return Broken(found.code, found.seen.rstrip("."),
                          self._keep(room, acted, found.evidence))
        finally:
            room.close()

    def _reached(self, room: Room, acted: Acted, hold: Hold) -> bool:
        """Wait until the moment has come; whether it has."""
        left = room.budgets.boot + room.budgets.work
        while not hold.wait_reached(min(left, TURN)):
            left -= TURN
            if left <= 0 or acted.over or room.session.stopping:
                return bool(hold.steps)
        return True

    def _crash(self, room: Room, acted: Acted, hold: Hold) -> None:
        acted.program.kill()
        room.steps[-1] = (f"Killed {acted.program.name} with SIGKILL "
                          f"{words.after(self.moment, self.act.who)}.")
        acted.program.wire.wait_closed(room.budgets.work)

    def _shutdown(self, room: Room, acted: Acted, hold: Hold) -> None:
        acted.program.terminate(taken=self.variant == "b")
        room.steps[-1] = f"Sent SIGTERM {words.after(self.moment, self.act.who)}."
        if self.variant == "b":
            room.history.wait_until(lambda _: not acted.program.alive, LATER)
        hold.release()
        _wait_over(room, acted)
        room.history.wait_until(lambda _: not acted.program.alive, room.budgets.shutdown)

    def _disconnect(self, room: Room, acted: Acted, hold: Hold) -> None:
        acted.program.wire.cut()
        room.tell(f"{self.where[:1].upper()}{self.where[1:]}.")
        hold.release()
        _wait_over(room, acted)

    def _interleaving(self, room: Room, acted: Acted, hold: Hold) -> None:
        room.tell(f"Held {acted.program.name} {words.after(self.moment, self.act.who)}.")
        other = self.act.begin(room, lambda program: None)
        acted.data["other"] = other

        def blocked_or_over() -> bool:
            if other.over:
                return True
            return any(c.step is not None and c.step.sent_at is not None
                       and c.step.answered_at is None and room.is_blocked(c.backend)
                       for c in other.program.wire.connections)

        left = room.budgets.boot + room.budgets.work
        while not blocked_or_over() and left > 0:
            began = room.history.now()
            room.history.wait(lambda _: True, TURN, len(room.history))
            left -= min(room.history.now() - began, TURN)
        room.tell(f"{other.program.name} had ended." if other.over
                  else f"{other.program.name} waited for a lock of the first.")
        hold.release()
        _wait_over(room, acted)
        _wait_over(room, other)

    def _keep(self, room: Room, acted: Acted, more: Sequence[Evidence] = ()) -> Seen:
        room.history.add(h.NOTE, "grader", "this broke", broke=True, event=None)
        evidence = [*more]
        if acted.request is not None and isinstance(acted.program, Api):
            evidence.append(acted.program.exchange_evidence(acted.request))
        evidence += self.act.evidence(room, acted)
        evidence.append(acted.program.log_evidence())
        return Seen(tuple(room.history.events()), tuple(room.steps), tuple(evidence))


def stopped_well(acted: Acted) -> tuple[str, str] | None:
    """What is wrong with how a program ended that was told to stop; None if nothing is."""
    program = acted.program
    if program.alive:
        return "still-running", "it did not end after SIGTERM"
    if program.process.exit.code != 0:
        return "wrong-exit-status", f"it {how_it_ended(program.process.exit)}"
    return None
