"""A stage: a store, a world and a history of their own, on which one trial is carried out.

A lab subclasses `Stage` for its store. What every trial needs is here: players (processes behind
proxies), waiting for events, answering the calls of the outside world, and noting each execution
together with what was known when it began.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from graders.harness import history as h
from graders.harness import places
from graders.harness.explore import replay
from graders.harness.process import Exit, Process
from graders.harness.results import Evidence
from graders.harness.steps import Hold, Step
from graders.harness.wire import Wire
from graders.harness.world import Call, World

if TYPE_CHECKING:
    from graders.harness.explore.record import Moment
    from graders.harness.session import GradingSession

T = TypeVar("T")

# The states of a task, as the engine knows them. None: there is no trace of it any more.
PENDING, PROCESSING, COMPLETED, FAILED = "pending", "processing", "completed", "failed"
FINAL = (COMPLETED, FAILED)

WORLD = "world"
QUIET = ("habits", "record", "survivor")  # stages that are not followed from their beginning
HOUR = 3600.0
SHORT = 0.1  # seconds between two polls where a trial needs several
BRIEF = 0.53  # seconds, times the machine's slowness, after which a claim counts as stuck
TURN = 0.1  # seconds of a wait that are counted at once, as History.wait_until has it


@dataclass(frozen=True)
class Scenario:
    """What a worker finds when it starts."""

    name: str  # "pending"
    words: str  # "one pending task"
    tasks: int = 1
    stuck: bool = False  # they are in the hands of a worker that died long ago
    fails: bool = False  # the work of the first one fails
    blocked: bool = False  # the worker waits on its queue already when they come


PENDING_TASK = Scenario("pending", "one pending task")
STUCK_TASK = Scenario("stuck", "one stuck task", stuck=True)
TWO_TASKS = Scenario("two", "two pending tasks", tasks=2)
THREE_TASKS = Scenario("three", "three pending tasks", tasks=3)
FAILING_WORK = Scenario("failing", "a task whose work fails", fails=True)
BLOCKED = Scenario("blocked", "a task that comes while the worker waits", blocked=True)


@dataclass(frozen=True)
class Setting:
    """What a lab gives the engine: its store, and the scenarios that make sense there.

    `name` tells settings of one run apart. `open(session, id)` sets up a fresh stage.
    """

    name: str
    open: Callable[[GradingSession, str], Stage]
    crash: Sequence[Scenario] = (PENDING_TASK, STUCK_TASK)
    interleave: Sequence[Scenario] = (PENDING_TASK, STUCK_TASK)
    shutdown: Sequence[Scenario] = (THREE_TASKS, FAILING_WORK)
    disconnect: Sequence[Scenario] = (PENDING_TASK,)
    # Where a second worker must not wait for a first; None for a store without locks.
    waits_for: Scenario | None = TWO_TASKS
    # Whether what was taken from the queue may be lost with whoever took it, and is in his hands
    # from then on (BRPOP): such losses are shown, and are no findings where nothing can help them.
    at_most_once: bool = False


@dataclass(frozen=True)
class Item:
    """A task of a scenario; `label` is what messages call it."""

    id: str
    label: str
    fails: bool = False

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Timing:
    """What a worker is told about time, in seconds."""

    poll_interval: float
    stuck_after: float


@dataclass(eq=False)
class Execution:
    """One execution of a task, and what was true when it began."""

    call: Call
    item: Item
    state: str | None  # of the task, as it was committed
    rivals: tuple[Execution, ...] = ()  # others of the same task, in the hands of living workers

    @property
    def who(self) -> str:
        """The process that did it."""
        return self.call.process


class Player:
    """One process of a submission on a stage, behind proxies of its own."""

    def __init__(self, stage: Stage, name: str, timing: Timing) -> None:
        self.stage = stage
        self.name = name
        self.timing = timing
        self.process: Process | None = None
        self.cut_off = False  # its connections were cut by the trial
        self.holds: list[Hold] = []  # all that were set for it
        self.scenario: Scenario | None = None  # that it was started on
        self.began = 0  # the number of the event from which on its steps count
        # Whether it has gone back to waiting with nothing in hand; set where that can be told.
        self.rested: Callable[[], bool] = lambda: False
        self.wires, self._variables = stage.proxies(name)

    def run(self) -> None:
        """Start its process. Returns at once."""
        stage, session = self.stage, self.stage.session
        env = {
            **session.environment(),
            **self._variables,
            **stage.variables(self.timing),
            "WORKER_ID": self.name,
            "WORK_URL": stage.world.url(self.name),
        }
        self.process = session.spawn(
            "worker", f"{stage.id}.{self.name}", self.name, env, stage.history
        )

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.exit is None

    @property
    def exit(self) -> Exit | None:
        """How it ended, if it did."""
        return self.process.exit if self.process is not None else None

    @property
    def backends(self) -> set[int]:
        """The PostgreSQL backends it has had."""
        return {backend for wire in self.wires for backend in wire.backends}

    def steps(self, kind: str = h.STEP_ARRIVED, since: int = 0) -> list[Step]:
        """Its steps so far, those with the world included."""
        return [e.data["step"] for e in self.stage.history.events(kind, who=self.name, since=since)]

    def hold(self, moment: Moment, when: str = "after") -> Hold | None:
        """Hold that one step of it, before the server hears it or before it hears the answer.

        None for a step that waits at the server for work to come: it is held there already.
        """

        def is_it(step: Step) -> bool:
            return step.process == self.name and moment.is_step(step)

        if moment.waits:  # its answer may never come: it is enough that the server waits
            return None
        hold = self._gated(moment.server).hold(is_it, when)
        self.holds.append(hold)
        return hold

    def hold_all(self, match: Callable[[Step], bool], when: str = "before") -> Hold:
        """Hold every step on its first wire that matches."""
        hold = self.wires[0].hold(match, when, times=None)
        self.holds.append(hold)
        return hold

    def _gated(self, server: str) -> Wire | World:
        if server == WORLD:
            return self.stage.world
        return next(wire for wire in self.wires if wire.server == server)

    def cut(self) -> None:
        """Cut all its connections to its servers at once."""
        self.cut_off = True
        for wire in self.wires:
            wire.cut()

    def terminate(self, taken: bool) -> None:
        """Send SIGTERM; with `taken`, return only once its handler has run."""
        self.process.terminate()
        if taken:
            self.process.wait_signal_taken(self.stage.budgets.shutdown)

    def kill(self) -> None:
        """SIGKILL to it and all it started; then cut, and end what the server still does for it.

        A server does not notice at once that a client is dead: a statement of it that waits for a
        lock could still be carried out.
        """
        if self.process is not None:
            self.process.kill()
        self.cut()
        for wire in self.wires:
            wire.wait_closed(self.stage.budgets.work)
        self.stage.end_sessions(self)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None:
            self.process.close()
        for wire in self.wires:
            wire.close()

    def log_evidence(self, last: int = 8) -> Evidence:
        """Its last log lines."""
        lines = [line.text[:300] for line in self.process.lines] if self.process else []
        return Evidence(f"The log of {self.name}", tuple(lines[-last:] or ["(nothing)"]))

    @property
    def ending(self) -> str:
        """ "ended with exit status 1", "was ended by SIGTERM"."""
        ended = self.exit
        if ended is None:
            return "is still running"
        if ended.signal:
            return f"was ended by {ended.signal}"
        return f"ended with exit status {ended.code}"


class Stage:
    """Where one trial is carried out. Used by one thread."""

    def __init__(self, session: GradingSession, id: str, history: h.History, world: World) -> None:
        self.session = session
        self.id = id
        self.budgets = session.budgets
        self.history = history
        self.world = world
        self.told: list[str] = []  # what was done, as numbered steps show it
        self.players: list[Player] = []
        self.items: list[Item] = []
        self.executions: list[Execution] = []
        self.held: list[Execution] = []  # whose calls were not answered
        # Whether a call is to be held: asked once for each, when it comes.
        self.holds_call: Callable[[Execution], bool] = lambda _: False
        self.hastens = False  # whether waits at the server may end before their time
        self._attended = 0
        self._due: list[Execution] = []
        if session.options.step and not id.startswith(QUIET):
            replay.follow(self)

    # What a lab says about its store -----------------------------------------------------------

    def proxies(self, name: str) -> tuple[list[Wire], dict[str, str]]:
        """Started proxies for a process, and the variables that name them to it."""
        raise NotImplementedError

    def variables(self, timing: Timing) -> dict[str, str]:
        """The variables that tell a worker about time."""
        raise NotImplementedError

    def put(self, scenario: Scenario) -> list[Item]:
        """Put the tasks of a scenario in place, oldest first, and return them."""
        raise NotImplementedError

    def add_last(self) -> Item:
        """Add one more task, younger than all others."""
        raise NotImplementedError

    def state(self, item: Item) -> str | None:
        """What has become of a task, as far as it was committed."""
        raise NotImplementedError

    def final_count(self) -> int:
        """How many tasks have come to their end. Asked often: a store may know a quicker way."""
        return sum(self.state(item) in FINAL for item in self.items)

    def evidence(self, items: Sequence[Item]) -> Evidence:
        """The tasks as they are stored now, to be shown."""
        raise NotImplementedError

    def sync(self) -> None:
        """Return once every change committed so far is in the history."""

    def end_sessions(self, player: Player) -> None:
        """End whatever the server still does for a process that is dead; wait until it is gone."""

    def is_poll(self, step: Step) -> bool:
        """Whether a step asks the queue for work, or may be part of asking."""
        raise NotImplementedError

    def blocks(self, step: Step) -> bool:
        """Whether a step may wait at the server for work to come (BRPOP)."""
        return False

    def takes(self, moment: Moment) -> bool:
        """Whether the answer of this moment is a task that is taken from the queue by it."""
        return False

    def waits_for(self, waiter: Player, other: Player) -> bool:
        """Whether one waits, inside the server, for a lock of the other."""
        return False

    def is_blocked(self, player: Player) -> bool:
        """Whether one waits, inside the server, for anybody's lock."""
        return False

    def lock(self, item: Item) -> contextlib.AbstractContextManager:
        """Hold the lock of a task's row as long as this lasts; only where there are locks."""
        raise NotImplementedError

    def has_free_task(self) -> bool:
        """Whether a pending task is there that nobody has locked."""
        return any(self.state(item) == PENDING for item in self.items)

    def hasten(self) -> None:
        """End waits at the server before their time, where that can be done; asked every turn."""

    def left(self) -> Any:
        """Everything as it stands in the store, for `give` on another stage."""
        raise NotImplementedError

    def give(self, left: Any, items: Sequence[Item]) -> None:
        """Put what another stage has left into this one, unchanged, with its tasks."""
        raise NotImplementedError

    def free(self) -> None:
        """The store is needed no more; what was seen stays."""

    # What a trial does -------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """Add a numbered step: what was done, in the past tense."""
        self.told.append(text)
        self.history.add(h.NOTE, "grader", text)

    def player(self, name: str, poll_interval: float, stuck_after: float) -> Player:
        """A process, not started yet, with its proxies."""
        player = Player(self, name, Timing(poll_interval, stuck_after))
        self.players.append(player)
        return player

    @property
    def brief(self) -> float:
        """The short WORKER_STUCK_AFTER of this machine, in seconds."""
        return BRIEF * self.budgets.factor

    def named(self, name: str) -> Player | None:
        """The player of that name."""
        return next((player for player in self.players if player.name == name), None)

    def attend(self) -> None:
        """Note each call that has come, with what was true when it came, and answer it."""
        calls = self.world.calls
        for call in calls[self._attended:]:
            self._attended += 1
            item = next((item for item in self.items if item.id == call.task_id), None)
            if item is None:
                call.finish()
                continue
            state = self.state(item)
            if state == COMPLETED and self._recorded_late(item):
                state = PROCESSING
            rivals = () if state in FINAL else tuple(
                other for other in self.executions
                if other.item is item and self._in_hand(other)
            )  # fmt: skip
            if rivals and self._was_completed(item, rivals[0].call):
                # Somebody has overwritten it since; it was no longer in anybody's hands.
                state, rivals = COMPLETED, ()
            execution = Execution(call, item, state, rivals)
            self.executions.append(execution)
            if self.holds_call(execution):
                self.held.append(execution)
            else:
                self._due.append(execution)
        for execution in list(self._due):
            # While its call stands at a gate, the worker is to be held there.
            if not execution.call.at_gate:
                self._due.remove(execution)
                self.answer(execution)

    def _recorded_late(self, item: Item) -> bool:
        """Whether the task had been taken up again, as overdue, before that completion came.

        Who is late may still record what it has done: the one who took over has begun by then.
        """
        earlier = self.executed(item)
        if not earlier:
            return False
        for event in self._changes(item, earlier[-1].call):
            if event.data["old"] == PROCESSING and event.data["new"] in (PENDING, PROCESSING):
                return True
            if event.data["new"] == COMPLETED:
                return False
        return False

    def _was_completed(self, item: Item, since: Call) -> bool:
        """Whether the task was recorded as completed at any time since that call came."""
        return any(event.data["new"] == COMPLETED for event in self._changes(item, since))

    def _changes(self, item: Item, since: Call) -> list[h.Event]:
        """The committed changes of a task since a call came, as far as the store tells of them."""
        self.sync()
        came = self.arrival(since)
        return [event for event in self.history.events(h.ROW_CHANGED, since=came.n if came else 0)
                if str(event.data["task"]) == item.id]

    def _in_hand(self, execution: Execution) -> bool:
        """Whether its worker lives, was not cut off, and has time left for what it does."""
        player = self.named(execution.who)
        return (
            player is not None and player.alive and not player.cut_off
            and player.timing.stuck_after >= HOUR
        )  # fmt: skip

    def answer(self, execution: Execution) -> None:
        """Let the work of a call end: well, or badly where the scenario says so."""
        if execution in self.held:
            self.held.remove(execution)
        if execution.item.fails:
            execution.call.fail()
        else:
            execution.call.finish()

    def answer_held(self) -> None:
        """Let the work of all calls that are held end, and hold no more."""
        self.holds_call = lambda _: False
        for execution in list(self.held):
            self.answer(execution)

    def executed(self, item: Item) -> list[Execution]:
        """The executions of a task so far."""
        return [each for each in self.executions if each.item is item]

    def wait(self, reached: Callable[[], T], budget: float) -> T:
        """Wait until `reached()` is true, attending to calls meanwhile; what it said last.

        `budget` counts as History.wait_until does: in turns that this thread was given.
        """
        left = budget
        while True:
            since, began = len(self.history), self.history.now()
            self.attend()
            got = reached()
            if got or left <= 0 or self.session.stopping:
                return got
            turn = min(left, TURN)
            self.history.wait(lambda _: True, turn, since)
            if self.hastens:
                self.hasten()
            left -= min(self.history.now() - began, turn)
            places.waited(budget - left)

    def reach(self, player: Player, hold: Hold) -> Step | None:
        """Wait until the step of this hold is reached; None if it was not on the player's way."""
        self.wait(lambda: hold.steps or not player.alive or player.rested(), self.reach_budget)
        return hold.steps[0] if hold.steps else None

    def come_to(self, player: Player, moment: Moment, hold: Hold | None) -> bool:
        """Wait until the player has come to a moment: its step is held, or waits at the server."""
        if hold is not None:
            return self.reach(player, hold) is not None

        def waits() -> bool:
            return any(moment.is_step(s) and s.sent_at is not None
                       for s in player.steps(since=player.began))

        self.wait(lambda: waits() or not player.alive, self.reach_budget)
        return waits()

    @property
    def reach_budget(self) -> float:
        """Seconds in which a fresh worker gets to any of its moments."""
        return self.budgets.boot + self.budgets.ready + self.budgets.work

    def all_final(self) -> bool:
        """Whether each task has come to its end."""
        return self.final_count() == len(self.items)

    def arrival(self, call: Call) -> h.Event | None:
        """The event at which a call came in."""
        came = self.history.events(h.CALL_ARRIVED)
        return next((event for event in came if event.data["call"] is call), None)

    def polled(self, player: Player, anchor: Callable[[Step], bool], since: int) -> int:
        """How many polls of a player have begun since that event."""
        return sum(anchor(step) for step in player.steps(since=since))

    def close(self) -> None:
        """End every process and proxy, and give the store back. Never fails."""
        for player in self.players:
            with contextlib.suppress(Exception):
                player.close()
        with contextlib.suppress(Exception):
            self.free()
        self.history.close()


def said(step: Step) -> Mapping[str, Any]:
    """What a step looked like, for a moment made of it."""
    return {
        "server": step.server, "name": step.name, "occurrence": step.occurrence,
        "kind": step.kind, "words": step.words, "tags": step.tags,
        "status": step.status, "status_before": step.status_before,
    }  # fmt: skip

