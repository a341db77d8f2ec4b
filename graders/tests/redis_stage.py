"""A list queue on Redis as the explorations see it, for tests: no lab has one yet.

The contract of the workers in `redis_workers/`: jobs in the list `work_queue`, results at
`result:<subtask_id>`, what is in a worker's hands in a list `processing:<worker>`.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from graders.harness.budgets import Budgets
from graders.harness.explore.stage import (
    BLOCKED,
    FAILING_WORK,
    PENDING_TASK,
    STUCK_TASK,
    THREE_TASKS,
    Item,
    Player,
    Scenario,
    Setting,
    Stage,
    Timing,
)
from graders.harness.history import TASK_ADDED, History
from graders.harness.keeper import Keeper
from graders.harness.loop import LoopThread
from graders.harness.places import Bound
from graders.harness.process import Caps, Process
from graders.harness.results import Evidence
from graders.harness.steps import Step
from graders.harness.submission import base_env
from graders.harness.wire import Wire
from graders.harness.wire_redis import BLOCKING, RedisWire
from graders.harness.world import World

WORKERS = Path(__file__).with_name("redis_workers")
QUEUE = "work_queue"
_numbers = itertools.count(1)
_databases: list[int] = list(range(100, 256))  # the other tests count from 1
_lock = threading.Lock()


@dataclass
class Options:
    """What of a run's options an exploration asks for."""

    step: str = ""


@functools.cache
def _budgets() -> Budgets:
    """As a grading run has them: for what this machine is now."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import redis"], check=True)
    return Budgets().scaled(1.0, time.monotonic() - began)


@dataclass
class RedisSession:
    """As much of a grading run as explorations need, with one script as the submission."""

    keeper: Keeper
    loop: LoopThread
    server: Any  # host and port
    run_dir: Path
    script: str
    budgets: Budgets = field(default_factory=_budgets)
    options: Options = field(default_factory=Options)
    stopping: bool = False
    trials: Bound = field(default_factory=lambda: Bound(12))
    memo: dict = field(default_factory=dict)
    memo_lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self) -> dict[str, str]:
        return base_env(Path(sys.executable).parent, self.run_dir)

    def spawn(
        self, role: str, marker: str, name: str, env: dict[str, str], history: History
    ) -> Process:
        private = self.run_dir / "tmp" / marker
        return Process.start(
            self.keeper, self.loop, history, name,
            [sys.executable, str(WORKERS / f"{self.script}.py")],
            {**env, "TMPDIR": str(private)}, WORKERS, Caps(),
        )  # fmt: skip


class RedisStage(Stage):
    """A stage whose store is a Redis database of its own."""

    def __init__(self, session: RedisSession, name: str) -> None:
        history = History()
        world = World(session.loop, history)
        world.start()
        with _lock:
            self.database = _databases.pop(0)
        server = session.server
        self.redis = redis.Redis(server.host, server.port, db=self.database,
                                 decode_responses=True)
        self.redis.flushdb()
        self._labels = itertools.count(1)
        super().__init__(session, f"{name}-{next(_numbers)}", history, world)

    def proxies(self, name: str) -> tuple[list[Wire], dict[str, str]]:
        server = self.session.server
        wire = RedisWire(self.session.loop, self.history, name, (server.host, server.port),
                         self.database)
        port = wire.start()
        return [wire], {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}

    def variables(self, timing: Timing) -> dict[str, str]:
        return {"WORKER_POLL_INTERVAL": f"{timing.poll_interval:g}",
                "WORKER_STUCK_AFTER": f"{timing.stuck_after:g}"}

    def _add(self, fails: bool = False, key: str = QUEUE) -> Item:
        label = f"T{next(self._labels)}"
        job_id = f"{uuid.uuid4()}-0"
        item = Item(job_id, label, fails)
        self.history.add(TASK_ADDED, "grader", f"adds {label}", task=job_id, label=label)
        job = {"task_id": self.id, "subtask_id": job_id, "description": "anything", "priority": 1}
        self.items.append(item)
        self.redis.lpush(key, json.dumps(job))
        return item

    def put(self, scenario: Scenario) -> list[Item]:
        key = "processing:worker-gone" if scenario.stuck else QUEUE
        return [self._add(scenario.fails and n == 0, key) for n in range(scenario.tasks)]

    def add_last(self) -> Item:
        return self._add()

    def state(self, item: Item) -> str | None:
        result = self.redis.get(f"result:{item.id}")
        if result is not None:
            return json.loads(result)["status"]
        keys = self.redis.keys("processing:*")
        for key, state in ((QUEUE, "pending"), *((key, "processing") for key in keys)):
            jobs = self.redis.lrange(key, 0, -1)
            if any(json.loads(job)["subtask_id"] == item.id for job in jobs):
                return state
        return None

    def evidence(self, items: Sequence[Item]) -> Evidence:
        return Evidence("The jobs as they are now",
                        tuple(f"{item.label}  {self.state(item)}" for item in items))

    def is_poll(self, step: Step) -> bool:
        return (step.server == "redis" and step.kind in ("command", "reply")
                and QUEUE in step.words and "LPUSH" not in step.words)

    def blocks(self, step: Step) -> bool:
        return step.kind == "command" and any(s.sql in BLOCKING for s in step.statements)

    def end_sessions(self, player: Player) -> None:
        # A blocking command ends with its connection, which is closed by now.
        ...

    def left(self) -> dict[str, Any]:
        found = {}
        for key in self.redis.keys("*"):
            if self.redis.type(key) == "list":
                found[key] = self.redis.lrange(key, 0, -1)
            else:
                found[key] = (self.redis.get(key), self.redis.pttl(key))
        return found

    def give(self, left: dict[str, Any], items: Sequence[Item]) -> None:
        self.items += items
        for item in items:
            self.history.add(TASK_ADDED, "grader", f"gives {item}", task=item.id, label=item.label)
        for key, kept in left.items():
            if isinstance(kept, list):
                self.redis.rpush(key, *kept)
            elif kept[1] > 0:
                self.redis.set(key, kept[0], px=kept[1])
            elif kept[1] == -1:
                self.redis.set(key, kept[0])

    def free(self) -> None:
        self.world.stop()
        self.redis.flushdb()
        self.redis.close()
        with _lock:
            _databases.append(self.database)


SETTING = Setting(
    "jobs", RedisStage,
    crash=(PENDING_TASK, STUCK_TASK, BLOCKED),
    interleave=(PENDING_TASK, STUCK_TASK),
    shutdown=(THREE_TASKS, FAILING_WORK, BLOCKED),
    disconnect=(PENDING_TASK, BLOCKED),
    waits_for=None,
)
