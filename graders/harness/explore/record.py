"""Which steps does a worker take? Recorded twice, aligned by name, never by number.

First the worker's habits are learned: what goes on although its work call is held (a heartbeat, a
reaper, a listener), and what one idle poll looks like. Then each scenario is recorded, from the
first connection to the record of the work and one idle poll, with a poll interval of an hour.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from graders.harness import history as h
from graders.harness.explore.stage import (
    FINAL,
    HOUR,
    PENDING_TASK,
    PROCESSING,
    WORLD,
    Item,
    Player,
    Scenario,
    Setting,
    Stage,
    said,
)
from graders.harness.results import Evidence
from graders.harness.steps import Step

if TYPE_CHECKING:
    from graders.harness.session import GradingSession

# A handshake is one step already; preparing a statement and a pool's check change nothing.
KINDS = ("connect", "query", "command", "reply", "close", "call", "call-answer")
UNHEARD = "close"  # a good-bye is not answered, so nobody can be held at it: it is no moment
INTERVAL = 0.3  # seconds between polls while habits are learned: the gap that tells polls apart
BACKGROUND = 1.2  # seconds for which a work call is held to see what goes on all the same,
STARTS = 4  # and at least so many times what the worker's start took, on a machine that is busy
POLLS = 4  # that are looked at; psycopg prepares a statement at its sixth execution
LATE = 0.5  # seconds of silence after which a recording is whole
CALM = 0.7  # seconds in which a worker starts beside a few others; what it takes more than that
PATIENT = 3  # is added so many times to that silence: the machine is busy with something else
MOST_LATE = 3  # such times that are waited for
MOST_STEPS = 400  # of a recording: a worker that never rests is told so by other checks


@dataclass(frozen=True)
class Moment:
    """A step that a worker takes on every run of a scenario."""

    server: str
    name: str  # what was said since BEGIN on its connection
    occurrence: int
    kind: str
    words: str
    tags: tuple[str, ...] = ()
    status: str = ""
    status_before: str = ""
    connections: int = 1  # that the worker had open then
    waits: bool = False  # it was still waiting at the server when the recording ended
    background: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same moment in another run."""
        return (self.server, self.name, self.occurrence)

    def is_step(self, step: Step) -> bool:
        """Whether a step is this moment."""
        return (step.server, step.name, step.occurrence) == self.key

    @property
    def alike(self) -> tuple[str, str, tuple[str, ...]]:
        """The same for moments in which the same was said and answered, however often."""
        return (self.server, self.name, self.tags)


@dataclass(frozen=True)
class Habits:
    """What a worker does by itself."""

    anchor: str  # the name of the step by which a poll is known
    # One idle poll, in order: names, and what the server says where the queue is asked.
    idle: tuple[tuple[str, tuple[str, ...]], ...]
    background: frozenset[str]  # names of steps that do not wait for the work
    many: bool = False  # others of its consumers go on polling while one works
    blocks: bool = False  # it waits for work at the server (BRPOP), not by itself
    beats: tuple[Moment, ...] = ()  # the first step of each of those names, while work went on

    def begins_poll(self, step: Step) -> bool:
        """Whether a poll begins (or is under way) with this step."""
        return step.server != WORLD and step.name == self.anchor


@dataclass(frozen=True)
class Recorded:
    """The moments of a scenario, in the order of the first recording."""

    scenario: Scenario
    moments: tuple[Moment, ...]
    unaligned: tuple[str, ...]  # names that did not come on every run: not explored

    def first_poll(self, habits: Habits) -> int:
        """The index of the first step of the first poll."""
        names = [m.name for m in self.moments]
        if self.scenario.blocked:
            return 0
        return names.index(habits.anchor) if habits.anchor in names else 0


class NotRecorded(Exception):
    """A worker does not do in a scenario what every exploration starts from; the text says what.

    `code` is the finding where nothing at all can be explored for that reason.
    """

    def __init__(self, what: str, code: str = "task-never-executed") -> None:
        super().__init__(what)
        self.code = code


class Unworked(NotRecorded):
    """It brought a task to an end whose work it never did: `state` is what it marked it."""

    def __init__(self, item: Item, state: str, evidence: Sequence[Evidence]) -> None:
        super().__init__(f"it marked {item} “{state}” and never did its work")
        self.item = item
        self.state = state
        self.evidence = tuple(evidence)


class Once:
    """Values that are made by whoever asks first; the others wait for them, or for their error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[object, Future] = {}

    def get(self, key: object, make: Callable[[], Any]) -> Any:
        """The value of this key. Raises what `make` raised."""
        with self._lock:
            future = self._made.get(key)
            mine = future is None
            if mine:
                future = self._made[key] = Future()
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
        return future.result()


class Recorder:
    """Records each scenario of a setting once per run, whoever asks first."""

    def __init__(self, session: GradingSession, setting: Setting) -> None:
        self.session = session
        self.setting = setting
        self._once = Once()

    @classmethod
    def of(cls, session: GradingSession, setting: Setting) -> Recorder:
        """The recorder of this run and setting."""
        with session.memo_lock:
            return session.memo.setdefault(("recorder", setting.name), cls(session, setting))

    def habits(self) -> Habits:
        """The worker's habits. Raises NotRecorded."""
        return self._once.get("habits", self._learn)

    def recorded(self, scenario: Scenario) -> Recorded:
        """The moments of a scenario. Raises NotRecorded."""
        return self._once.get(scenario.name, lambda: self._record(scenario))

    def ahead(self, scenarios: Sequence[Scenario]) -> None:
        """Begin to record these, side by side; whoever needs one waits for it."""
        for scenario in scenarios:
            threading.Thread(target=self._ahead, args=(scenario,), daemon=True).start()

    def _ahead(self, scenario: Scenario) -> None:
        with contextlib.suppress(Exception):  # whoever needs it is told
            self.recorded(scenario)

    # Habits ------------------------------------------------------------------------------------

    def _learn(self) -> Habits:
        stage = self.setting.open(self.session, "habits")
        stage.hastens = True
        try:
            stage.put(PENDING_TASK)
            stage.holds_call = lambda _: True
            player = stage.player("worker-1", INTERVAL, HOUR)
            player.run()
            budgets = stage.budgets
            stage.wait(lambda: stage.held or not player.alive, stage.reach_budget)
            if not stage.held:
                raise _no_call(player)
            since = len(stage.history)
            stage.wait(lambda: not player.alive, max(BACKGROUND, STARTS * _start_took(player)))
            beats = {}
            for step in player.steps(since=since):
                if _counts(step):
                    beats.setdefault(step.name, step)
            since = len(stage.history)  # before the answer: the worker may be quicker than we are
            stage.answer(stage.held[0])
            stage.wait(lambda: stage.all_final() or not player.alive, budgets.work)

            def poll_steps() -> list[Step]:
                return [s for s in player.steps(since=since) if _counts(s)]

            def polled() -> bool:
                counted = Counter(s.name for s in poll_steps() if stage.is_poll(s))
                return max(counted.values(), default=0) > POLLS or len(poll_steps()) > MOST_STEPS

            stage.wait(lambda: polled() or not player.alive, budgets.work)
            found = _habits(poll_steps(), set(beats), stage.is_poll)
            blocks = any(stage.blocks(s) for s in poll_steps() if s.name == found.anchor)
            # Trials hold it at its first time, whenever that comes.
            first = tuple(Moment(**{**said(step), "occurrence": 1}, background=True, connections=2)
                          for name, step in beats.items() if name in found.background)
            return replace(found, blocks=blocks, beats=first)
        finally:
            stage.close()

    # Scenarios ---------------------------------------------------------------------------------

    def _record(self, scenario: Scenario) -> Recorded:
        habits = self.habits()
        if scenario.blocked and not habits.blocks:
            raise NotRecorded("it does not wait on its queue but polls it")
        with ThreadPoolExecutor(2, thread_name_prefix="recording") as pool:
            takes = list(pool.map(lambda _: self._take(scenario, habits), range(2)))
        if _keys(takes[0]) != _keys(takes[1]):
            takes.append(self._take(scenario, habits))
        counted = Counter(key for take in takes for key in _keys(take))
        # The order is that of the take that agrees with most of the others.
        order = next((t for t in takes if all(counted[k] > 1 for k in _keys(t))), takes[0])
        aligned = tuple(m for m in order if counted[m.key] > 1)
        # One idle poll more or less is nothing new.
        known = {m.alike for m in aligned}
        unaligned = dict.fromkeys(
            m.words for take in takes for m in take
            if counted[m.key] < 2 and m.alike not in known
        )  # fmt: skip
        if not aligned:
            raise NotRecorded(f"no step came twice with {scenario.words}")
        return Recorded(scenario, _with_beats(aligned, habits, scenario), tuple(unaligned))

    def _take(self, scenario: Scenario, habits: Habits) -> list[Moment]:
        """Record once."""
        stage = self.setting.open(self.session, f"record-{scenario.name}")
        try:
            player = begin(stage, scenario, habits, HOUR, HOUR, lambda _: None)
            stage.wait(player.rested,
                       2 * stage.budgets.work + stage.budgets.boot)
            _let_come(stage, player, habits)
            if not stage.executions:
                for item in stage.items:
                    if (state := stage.state(item)) in FINAL:
                        shown = (stage.evidence([item]), player.log_evidence())
                        raise Unworked(item, state, shown)
                raise NotRecorded(LATER) if scenario.stuck else _no_call(player)
            if scenario.stuck and _taken_up_apart(stage, player, habits):
                raise NotRecorded(LATER)
            events = stage.history.events(h.STEP_ARRIVED, h.CONNECTED, h.DISCONNECTED,
                                          who=player.name, since=player.began)
            return _moments(stage, events, habits)
        finally:
            stage.close()


LATER = "it was not its first poll that took it up"


def _taken_up_apart(stage: Stage, player: Player, habits: Habits) -> bool:
    """Whether a stuck task was taken up on a connection on which nothing polls (a reaper's).

    When such a one gets its turn is another on every run.
    """
    first = next((e for e in stage.history.events(h.ROW_CHANGED)
                  if e.data["old"] == PROCESSING and e.data.get("backend")), None)
    idle = {name for name, _ in habits.idle}
    polling = {s.backend for s in player.steps() if s.name in idle}
    return first is not None and first.data["backend"] not in polling


def begin(
    stage: Stage, scenario: Scenario, habits: Habits, poll: float, stuck: float,
    prepare: Callable[[Player], object],
) -> Player:
    """Start a fresh worker on a scenario; `prepare` is called when its steps begin to count."""
    player = stage.player("worker-1", poll, stuck)
    player.scenario = scenario
    player.rested = lambda: _ended(stage, player, habits)
    if not scenario.blocked:
        stage.put(scenario)
        prepare(player)
        player.run()
        stage.tell(f"Put in place: {scenario.words}. Started {player.name}.")
        return player
    player.run()
    budgets = stage.budgets
    # Not just at the end of a wait: the next one has begun when its command arrives.
    asked = stage.wait(
        lambda: _waiting(stage, player, habits) or not player.alive, budgets.boot + budgets.ready
    )
    since = len(stage.history)
    if asked:
        stage.wait(
            lambda: any(stage.blocks(s) and s.sent_at is not None
                        for s in player.steps(since=since)) or not player.alive, budgets.work,
        )  # fmt: skip
    for wire in player.wires:
        wire.begin()
    player.began = len(stage.history)
    prepare(player)
    stage.put(scenario)
    stage.tell(f"Started {player.name}; when it waited on its queue, put in place: one task.")
    return player


def _waiting(stage: Stage, player: Player, habits: Habits) -> bool:
    return any(habits.begins_poll(s) or stage.blocks(s) for s in player.steps())


def _counts(step: Step) -> bool:
    return step.server != WORLD and step.kind in KINDS


def _habits(
    steps: Sequence[Step], background: set[str], is_poll: Callable[[Step], bool]
) -> Habits:
    """What one idle poll looks like, from the steps of several."""
    polls = Counter(s.name for s in steps if is_poll(s))
    recurring = [name for name, count in polls.items() if count >= 3]
    chosen = [name for name in recurring if name not in background]
    many = not chosen
    if many:  # then nothing that asks the queue is in the background
        chosen, background = recurring, background - set(polls)
    if not chosen:
        raise NotRecorded("with nothing to do, the worker does not poll again and again",
                          "slow-polling")
    foreground = [s for s in steps if s.name not in background]
    anchor = next(s.name for s in foreground if s.name in chosen)
    at = [i for i, s in enumerate(foreground) if s.name == anchor]
    turns = [foreground[a:b] for a, b in pairwise(at)]
    # The last ones: a worker's first poll after its work may be another than those that follow.
    common = Counter(s.name for s in turns[-1]) & Counter(s.name for s in turns[-2])
    # Where the worker waits is where most time passes, in all of them together.
    waited: Counter[str] = Counter()
    for turn, after in zip(turns[-3:], at[-3:], strict=True):
        for earlier, later in pairwise([*turn, foreground[after]]):
            waited[later.name] += later.arrived_at - earlier.arrived_at
    first = max(waited, key=lambda name: waited[name])
    kept = [s for s in turns[-1] if s.name in common]
    start = next((i for i, s in enumerate(kept) if s.name == first), 0)
    idle = tuple(_heard(s, is_poll) for s in kept[start:] + kept[:start])
    return Habits(anchor, idle, frozenset(background), many)


def _heard(step: Step, is_poll: Callable[[Step], bool]) -> tuple[str, tuple[str, ...]]:
    """A step as an idle poll is compared by: where the queue was asked, with the answer."""
    return step.name, step.tags if is_poll(step) else ()


def _ended(stage: Stage, player: Player, habits: Habits) -> bool:
    """Whether an idle poll has ended and nothing is in hand: after this comes only a long wait."""
    if not player.alive:
        return True
    steps = [s for s in player.steps(since=player.began)
             if s.kind in KINDS and s.name not in habits.background]
    if len(steps) > MOST_STEPS:
        return True
    last = steps[-len(habits.idle):]
    if len(last) < len(habits.idle):
        return False
    for step in last:
        if step.server == WORLD or not (
            step.delivered_at is not None or step.kind == "close"
            or (stage.blocks(step) and step.sent_at is not None)
        ):
            return False
    found = []
    for step in last:
        name, answer = _heard(step, stage.is_poll)
        if step.delivered_at is None:  # still waiting for work: whatever idle polls are answered
            answer = next((tags for one, tags in habits.idle if one == name), answer)
        found.append((name, answer))
    # A blocking command that was just sent may be answered at once, while there are tasks.
    unsure = any(stage.blocks(s) and s.delivered_at is None for s in last) and not (
        stage.executions and stage.all_final()
    )
    if stage.held or unsure or _under_way(stage, player):
        return False
    if found == list(habits.idle):
        return not stage.executions or stage.all_final()
    # Of several consumers the idle polls come mixed.
    answered = max((i for i, s in enumerate(steps) if s.kind == "call-answer"), default=None)
    polls = sum(habits.begins_poll(s) for s in steps[answered:]) if answered is not None else 0
    return polls > 1 and stage.all_final()


def _let_come(stage: Stage, player: Player, habits: Habits) -> None:
    """Let what is still starting beside the polls (a listener, a pool) have its say as well.

    Nothing is judged by this silence: it makes recordings whole, and two of them must agree.
    """
    if habits.blocks:
        return  # it asks again and again, and has nothing but its answers to wait for
    late = LATE + PATIENT * max(0.0, _start_took(player) - CALM)
    for _ in range(MOST_LATE):
        heard = len(player.steps())
        if not stage.wait(lambda n=heard: len(player.steps()) > n, late) or not player.alive:
            return
        stage.wait(player.rested, stage.budgets.work)


def _start_took(player: Player) -> float:
    """Seconds from its process's start to its first step: how busy this machine is just now."""
    started = player.stage.history.events(h.STARTED, who=player.name)
    steps = player.steps()
    return steps[0].arrived_at - started[0].at if started and steps else 0.0


def _under_way(stage: Stage, player: Player) -> bool:
    """Whether it is in the middle of something: a transaction, a statement, a task just claimed."""
    for wire in player.wires:
        for connection in wire.connections:
            blocked = connection.step is not None and stage.blocks(connection.step)
            if connection.status in ("T", "E") or not (connection.idle or blocked):
                return True
    scenario = player.scenario
    return (scenario is not None and not scenario.stuck and not stage.executions
            and any(stage.state(item) == PROCESSING for item in stage.items))


def _moments(stage: Stage, events: Sequence[h.Event], habits: Habits) -> list[Moment]:
    moments: list[Moment] = []
    # Of a worker that was there before, none was opened in sight.
    connections: set[tuple[str, int]] = set()
    for event in events:
        if event.kind != h.STEP_ARRIVED:
            one = (event.data["server"], event.data["connection"])
            (connections.add if event.kind == h.CONNECTED else connections.discard)(one)
            continue
        step = event.data["step"]
        if step.kind not in KINDS or step.kind == UNHEARD:
            continue
        if step.server != WORLD and step.name in habits.background:
            continue  # it comes when it comes: see Habits.beats
        moments.append(Moment(
            **said(step), connections=max(1, len(connections)),
            waits=stage.blocks(step) and step.answered_at is None,
        ))  # fmt: skip
    return moments


def _with_beats(
    moments: tuple[Moment, ...], habits: Habits, scenario: Scenario
) -> tuple[Moment, ...]:
    """Where all goes well, what goes on in the background while a task is in hand is tried too."""
    calls = [i for i, m in enumerate(moments) if m.kind == "call"]
    if not calls or scenario.stuck or scenario.fails or scenario.blocked:
        return moments
    return (*moments[: calls[0] + 1], *habits.beats, *moments[calls[0] + 1 :])


def _keys(take: Sequence[Moment]) -> set[tuple[str, str, int]]:
    return {moment.key for moment in take}


def _no_call(player: Player) -> NotRecorded:
    if not player.alive and player.process is not None:
        return NotRecorded(f"the worker {player.ending} before it had executed a task",
                           "worker-exited")
    return NotRecorded("with a task pending when it starts, the worker does not execute it")
