"""Interleaving: one worker is held at each of its steps while a second one runs.

The second one has just been started (cold, as in a rolling deploy) or has long been polling (warm).
Where it takes the task, it (i) runs until it is idle before the first goes on, or (ii) is held in
its work while the first runs on; a warm one is tried in the second way only, since in the other it
is like a cold one to the first worker. Where it takes nothing, nothing has changed, and the first
is led on to its next step: so one run serves for many moments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graders.harness import history as h
from graders.harness.explore import words
from graders.harness.explore.points import (
    Broken,
    Explored,
    Felt,
    NotReached,
    Point,
    attempt,
    come_to,
    done_twice,
    keep,
    recordings,
    wrong_ends,
)
from graders.harness.explore.record import Habits, Moment, NotRecorded, Recorded, Recorder
from graders.harness.explore.stage import (
    HOUR,
    PENDING_TASK,
    SHORT,
    Player,
    Scenario,
    Setting,
    Stage,
)
from graders.harness.places import Places
from graders.harness.settings import per_core
from graders.harness.steps import Hold

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

EXPECTED = (
    "Whatever moment of one worker another one meets, each task is executed once, and nobody waits "
    "for another's lock while a task is free."
)
AT_ONCE = 2  # runs per core, of two workers each; more while these only wait
POLL = SHORT / 2  # seconds
POLLS = 2  # that end before a worker is believed to find nothing

IDLE, WORK = "until idle", "in its work"
COLD, WARM = "cold", "warm"
LETTERS = {(COLD, IDLE): "a", (COLD, WORK): "b", (WARM, WORK): "c"}


def explore(session: GradingSession, setting: Setting, only: str = "") -> Explored:
    """Hold one worker at each of its steps; `only` names one point (STEP)."""
    recorder = Recorder.of(session, setting)
    explored = Explored("interleaving")
    habits = recorder.habits()
    places = Places(lambda: per_core(AT_ONCE), session.trials)
    lanes: list[Lane] = []
    number = 0
    known: set[tuple] = set()
    for recorded in recordings(recorder, setting.interleave, explored):
        scenario = recorded.scenario
        moments = _moments(recorded, habits, known)
        numbers = range(number + 1, number + len(moments) + 1)
        number += len(moments)
        numbered = dict(zip(numbers, moments, strict=True))
        for second, part in itertools.product((COLD, WARM), _parts(numbered)):
            lanes.append(Lane(session, setting, scenario, habits, second, part, only, places))
    same_row = None
    if setting.waits_for is not None:
        inside = _inside_transaction(recorder, habits)
        numbers = range(number + 1, number + len(inside) + 1)
        lanes.append(Lane(session, setting, setting.waits_for, habits, WARM,
                          dict(zip(numbers, inside, strict=True)), only, places))
        same_row = SameRow(session, setting, habits, str(number + len(inside) + 1))
    with ThreadPoolExecutor(len(lanes) + 1, thread_name_prefix="lane") as pool:
        runs = [pool.submit(lane.run) for lane in lanes]
        if same_row is not None and only in ("", same_row.label):
            runs.append(pool.submit(same_row.run))
        for future in runs:
            future.result()
    explored.points = sorted((p for lane in lanes for p in lane.points),
                             key=lambda p: (int(p.label[:-1]), p.label[-1]))
    if same_row is not None and (only or explored.points):  # alone it is no exploration
        explored.points += same_row.points
    return explored


def _moments(recorded: Recorded, habits: Habits, known: set[tuple]) -> list[Moment]:
    """The moments of a scenario at which a second worker may meet something new.

    They begin with the last step before it asks the queue: what came before cannot depend on the
    queue. What was said and answered alike before is the same moment again, except that one.
    """
    first = max(0, recorded.first_poll(habits) - 1)
    found = []
    for moment in recorded.moments[first:]:
        if moment.background or moment.waits:
            continue
        if not found or moment.alike not in known:
            found.append(moment)
        known.add(moment.alike)
    return found


def _parts(moments: dict[int, Moment]) -> list[dict[int, Moment]]:
    """What comes before the work, and from it on: two lanes, side by side."""
    work = next((n for n, m in moments.items() if m.kind == "call"), None)
    parts = ({n: m for n, m in moments.items() if work is None or n < work},
             {n: m for n, m in moments.items() if work is not None and n >= work})
    return [part for part in parts if part]


def _inside_transaction(recorder: Recorder, habits: Habits) -> list[Moment]:
    """The moments up to the work at which it may hold a lock."""
    try:
        recorded = recorder.recorded(PENDING_TASK)
    except NotRecorded:
        return []
    moments = _moments(recorded, habits, set())
    calls = [i for i, m in enumerate(moments) if m.kind == "call"]
    return [m for m in moments[: calls[0] if calls else 0] if m.status in ("T", "E")]


@dataclass
class Lane:
    """All moments of one scenario, with one kind of second worker, one run after the other."""

    session: GradingSession
    setting: Setting
    scenario: Scenario
    habits: Habits
    second: str
    moments: dict[int, Moment]
    only: str
    places: Places  # one for each run

    def __post_init__(self) -> None:
        self.points: list[Point] = []
        self.two = self.setting.waits_for is not None and self.scenario == self.setting.waits_for

    def run(self) -> None:
        """Walk along the moments; a new run begins where the second worker took something."""
        left = sorted(self.moments)
        if self.only:
            chosen = [n for n in left if self.only[:-1] == str(n)]
            for mode in (IDLE, WORK):
                if chosen and LETTERS.get((self.second, mode)) == self.only[-1:]:
                    self._walk(chosen, mode)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="lane") as beside:
            walks = []
            while left:
                passed, took = self._walk(left, WORK)
                if took and self.second == COLD:
                    walks.append(beside.submit(self._walk, [left[passed - 1]], IDLE))
                left = left[max(1, passed):]
            for walk in walks:
                walk.result()

    def _point(self, number: int, mode: str) -> Point:
        """A new point of this lane."""
        held = f"held the first worker {words.after(self.moments[number])}"
        who = "just started" if self.second == COLD else "which was polling"
        far = "until it was idle" if mode == IDLE else "as far as its work"
        return Point(f"{number}{LETTERS[self.second, mode]}",
                     f"{held}, and let a second one, {who}, run {far}",
                     self.scenario.words, lambda: None)

    def _walk(self, numbers: list[int], mode: str) -> tuple[int, bool]:
        """Lead the first worker from moment to moment: how many were passed, and whether the
        second took something at the last of them."""
        points: list[Point] = []
        walks: list[Walk] = []

        def trial() -> Broken | None:
            walk = Walk(self, numbers[len(points):], mode)
            walks.append(walk)
            try:
                return walk.run()
            finally:
                # Where a run was felt, those before its last moment count all the same.
                points.extend(self._point(number, mode) for number in walk.done[: walk.passed])

        with self.places.place():
            outcome, skipped, fault = attempt(self.session, trial)
        if skipped:
            point = self._point(numbers[min(len(points), len(numbers) - 1)], mode)
            point.skipped, point.fault = skipped, fault
            points.append(point)
        elif outcome is not None:
            points[-1].outcome = outcome
        self.points.extend(points)
        return len(points), walks[-1].took


@dataclass
class Second:
    """A second worker: its process, the hold that catches its polls, and how many were let go."""

    player: Player
    polls: Hold
    door: Hold | None  # a cold one is parked there
    let: int = 0

    def become(self, other: Second) -> None:
        """Another one takes its place."""
        self.player, self.polls, self.door, self.let = (
            other.player, other.polls, other.door, other.let
        )


class Walk:
    """One run: a first worker that is led along, and second ones beside it."""

    def __init__(self, lane: Lane, numbers: list[int], mode: str) -> None:
        self.lane = lane
        self.numbers = numbers
        self.mode = mode
        self.passed = 0
        self.took = False
        self.done: list[int] = []
        self.stage: Stage = lane.setting.open(
            lane.session, f"meet-{lane.scenario.name}-{lane.second}-{numbers[0]}"
        )
        self.budgets = self.stage.budgets
        self.seconds = 0

    def run(self) -> Broken | None:
        """Carry it out; what broke, at the last moment of `done`."""
        try:
            return self._run()
        finally:
            self.stage.close()

    def _run(self) -> Broken | None:
        stage, lane = self.stage, self.lane
        stage.holds_call = lambda e: e.who != self.first.name
        self.first = stage.player("worker-1", POLL, HOUR)
        door = self.first.hold_all(lambda s: s.kind == "connect")  # parked until all is in place
        second = self._start_second()
        if second.door is None:  # the first one is not to be parked for as long as this takes
            self._idles(second)
            self.first.run()
        else:
            self.first.run()
            self._park(second.player, second.door)
        self._park(self.first, door)
        stage.put(lane.scenario)
        stage.tell(f"Put in place: {lane.scenario.words}.")
        moments = self._led()
        next(moments)  # the hold stands before the worker goes on
        door.release()
        for number in moments:
            self.done.append(number)
            stage.tell(f"Held {self.first.name} {words.after(lane.moments[number])}.")
            found = self._meet(second)
            self.passed += 1
            if found is not None or self.took:
                return found
            if number != self.numbers[-1] and lane.second == COLD:
                second.player.kill()
                second = self._start_second()
                self._park(second.player, second.door)
        return self._to_the_end()

    def _led(self) -> Iterator[int]:
        """Lead the first worker from one moment to the next, which it is held at."""
        stage = self.stage
        hold = self.first.hold(self.lane.moments[self.numbers[0]])
        yield 0
        for here, number in enumerate(self.numbers):
            come_to(stage, self.first, self.lane.moments[number], hold)
            before = len(stage.history)
            following = self.numbers[here + 1 : here + 2]
            coming = self.first.hold(self.lane.moments[following[0]]) if following else None
            yield number
            if self.took:
                return
            try:
                self._expect_not_felt(before)
            except Felt:
                self.passed -= 1  # what was seen there says nothing
                raise
            hold.release()
            hold = coming

    # The second worker -------------------------------------------------------------------------

    def _start_second(self, wanted: bool = False) -> Second:
        """Start a second worker; a cold one is parked where it connects until it is wanted."""
        self.seconds += 1
        player = self.stage.player(f"worker-{self.seconds + 1}", POLL, HOUR)
        door = None
        if self.lane.second == COLD and not wanted:
            door = player.hold_all(lambda s: s.kind == "connect")
        second = Second(player, player.hold_all(self.lane.habits.begins_poll), door)
        player.run()
        return second

    def _park(self, player: Player, door: Hold) -> None:
        """Wait until it wants to connect."""
        self.stage.wait(lambda: door.steps or not player.alive, self.budgets.boot)
        if not door.steps:
            raise NotReached(f"{player.name} {player.ending} and did not connect")

    def _idles(self, second: Second, stopped: Callable[[], bool] | None = None) -> bool:
        """Let it poll until two polls have ended; False if it took something, waits or ended."""
        stopped = stopped or (lambda: self._stopped(second.player))
        for number in range(POLLS + 1):
            wanted = second.let + 1
            self.stage.wait(lambda n=wanted: len(second.polls.steps) >= n or stopped(),
                            self.budgets.boot + self.budgets.work)
            if stopped():
                return False
            if len(second.polls.steps) < wanted:
                raise NotReached(f"{second.player.name} did not poll again")
            if number < POLLS:
                second.let += 1
                second.polls.next()
        return True

    def _stopped(self, second: Player) -> bool:
        return (
            any(e.who == second.name for e in self.stage.executions) or not second.alive
            or self.stage.waits_for(second, self.first)
        )  # fmt: skip

    def _meet(self, second: Second) -> Broken | None:
        """Let the second one run while the first is held."""
        stage, player = self.stage, second.player
        since = len(stage.history)
        if second.door is not None:
            second.door.release()
        stage.tell(f"Let {player.name} run.")
        idle = self._idles(second)
        if second.door is not None and not player.alive and not second.polls.steps:
            # It was parked for longer than it waits for a connection, on a busy machine: our
            # doing. One that is not parked takes its place.
            player.kill()
            second.become(self._start_second(wanted=True))
            player = second.player
            stage.tell(f"Started {player.name} in its place: the other had given up connecting.")
            idle = self._idles(second)
        if idle:
            if self.lane.two and stage.has_free_task():
                return self._broken("one-worker-idle", f"{player.name} polled twice and took "
                                    "nothing, although another task was free")
            if self._changed(since, player):
                self.took = True  # something, without executing it: how it ends will tell
                return self._to_the_end()
            return None
        self.took = True
        if not player.alive:
            if not second.polls.steps:  # of what becomes of it then, other checks speak
                raise Felt(f"{player.name} {player.ending} before it had polled")
            return self._broken("worker-exited", f"{player.name} {player.ending}")
        if not any(e.who == player.name for e in stage.executions):  # it waits for a lock
            if self.lane.two:
                return self._broken(
                    "waits-for-lock", f"{player.name} waits for a lock of {self.first.name} "
                    "(pg_blocking_pids names it), although another task is pending",
                )  # fmt: skip
            return self._to_the_end()
        if self.mode == IDLE and not self.lane.two:
            stage.answer_held()
            stage.tell(f"{player.name} took the task; let it work until it was idle.")
            # It records what it has done, and then polls.
            self._idles(second, lambda: not player.alive)
        else:
            stage.tell(f"{player.name} took a task and was held in its work; "
                       f"let {self.first.name} go on.")
        return self._to_the_end()

    def _changed(self, since: int, second: Player) -> bool:
        """Whether the second one has changed a task."""
        self.stage.sync()
        return any(e.data.get("backend") in second.backends
                   for e in self.stage.history.events(h.ROW_CHANGED, since=since))

    # The end -----------------------------------------------------------------------------------

    def _to_the_end(self) -> Broken | None:
        """Let everybody go on, and judge when all is done and everybody has polled twice.

        The first goes on while the second stays in its work; then the second records, and waits
        before its next poll: what wrong workers do side by side would be another on every run.
        """
        stage = self.stage
        since = len(stage.history)
        self._let_go(self.first)
        self._wait_for_polls(self.first, since)
        stage.answer_held()
        stage.wait(lambda: stage.all_final() or not self._anybody(), self.budgets.work)
        stage.add_last()
        stage.wait(lambda: stage.all_final() or not self._anybody(), self.budgets.work)
        for player in stage.players:
            since = len(stage.history)
            self._let_go(player)
            self._wait_for_polls(player, since)
        return judge_meeting(stage)

    def _let_go(self, player: Player) -> None:
        """Hold nothing of it any more."""
        for hold in player.holds:
            hold.release()

    def _anybody(self) -> bool:
        return any(player.alive for player in self.stage.players)

    def _wait_for_polls(self, player: Player, since: int) -> None:
        """Until it has begun three polls (so two have ended), is at work, waits, or has ended."""
        stage = self.stage
        others = [p for p in stage.players if p is not player]

        def done() -> bool:
            return (
                not player.alive or any(e.who == player.name for e in stage.held)
                or stage.polled(player, self.lane.habits.begins_poll, since) > POLLS
                or any(other.alive and stage.waits_for(player, other) for other in others)
            )  # fmt: skip

        stage.wait(done, self.budgets.work)

    def _broken(self, code: str, what: str) -> Broken:
        return Broken(code, what, keep(self.stage))

    def _expect_not_felt(self, since: int) -> None:
        """A worker that reacts to being held was not only held."""
        first = self.first
        if not first.alive:
            raise Felt(f"{first.name} {first.ending} while it was held")
        events = self.stage.history.events(h.DISCONNECTED, h.NOTE, who=first.name, since=since)
        if any(e.kind == h.DISCONNECTED or e.data.get("cancel") for e in events):
            raise Felt(f"{first.name} gave up waiting while it was held")


class SameRow:
    """What pausing does not reach, a race inside one statement: both wait for the same row.

    The grader holds the row's lock until both have asked for it, and then lets go.
    """

    def __init__(
        self, session: GradingSession, setting: Setting, habits: Habits, label: str
    ) -> None:
        self.session = session
        self.setting = setting
        self.habits = habits
        self.label = label
        self.points: list[Point] = []

    def run(self) -> None:
        """Carry it out."""
        point = Point(self.label, "both workers asked for the same row at the same moment",
                      PENDING_TASK.words, self._trial)
        point.outcome, point.skipped, point.fault = attempt(self.session, self._trial)
        self.points.append(point)

    def _trial(self) -> Broken | None:
        stage = self.setting.open(self.session, "same-row")
        try:
            return self._run(stage)
        finally:
            stage.close()

    def _run(self, stage: Stage) -> Broken | None:
        budgets = stage.budgets
        players = [stage.player(f"worker-{n}", POLL, HOUR) for n in (1, 2)]
        polls = [player.hold_all(self.habits.begins_poll) for player in players]
        for player in players:
            player.run()
        stage.wait(lambda: all(hold.steps for hold in polls) or not all(
            player.alive for player in players), budgets.boot + budgets.ready)
        if not all(hold.steps for hold in polls):
            raise NotReached("two workers did not both poll")
        stage.put(PENDING_TASK)
        since = len(stage.history)
        with stage.lock(stage.items[0]):
            stage.tell("Held the lock of the task's row until two workers had asked for it, and "
                       "then let go.")
            for hold in polls:
                hold.release()
            stage.wait(
                lambda: all(self._asked(stage, player, since) for player in players),
                budgets.work,
            )
        stage.wait(stage.all_final, budgets.work)
        since = len(stage.history)
        for player in players:
            stage.wait(lambda p=player: not p.alive or stage.polled(
                p, self.habits.begins_poll, since) > POLLS, budgets.work)
        return judge_meeting(stage)

    def _asked(self, stage: Stage, player: Player, since: int) -> bool:
        """Whether it waits for a lock, or has polled past it."""
        return (not player.alive or stage.is_blocked(player)
                or stage.polled(player, self.habits.begins_poll, since) > POLLS)


def judge_meeting(stage: Stage) -> Broken | None:
    """What is wrong after workers have met: each task was to be executed once, and recorded."""
    if (broken := done_twice(stage)) is not None:
        return broken
    for player in stage.players:
        if not player.alive and not player.cut_off:
            return Broken("worker-exited", f"{player.name} {player.ending}", keep(stage))
    return wrong_ends(stage)
