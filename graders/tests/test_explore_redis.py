"""The explorations on Redis traffic: list queues, blocking reads, MULTI blocks.

No lab uses them yet, so the workers are small ones of the tests' own (`redis_workers/`).
"""

from __future__ import annotations

import re

import pytest

from graders.harness.explore import crash, disconnect, interleave, shutdown
from graders.harness.explore.points import Explored, coverage, judge
from graders.harness.explore.stage import WORLD
from graders.tests.redis_stage import SETTING, RedisSession

EXPLORE = {
    "crash": crash.explore, "interleaving": interleave.explore,
    "shutdown": shutdown.explore, "disconnect": disconnect.explore,
}  # fmt: skip
NO_BLOCKING = "it does not wait on its queue but polls it"


@pytest.fixture
def explore(keeper, loop, redis_server, run_dir):
    """Carry out one exploration of a worker of `redis_workers/`."""
    sessions: dict[str, RedisSession] = {}

    def one(script: str, kind: str) -> Explored:
        session = sessions.setdefault(
            script, RedisSession(keeper, loop, redis_server, run_dir, script)
        )
        return EXPLORE[kind](session, SETTING)

    return one


def broken(explored: Explored) -> dict[str, list[str]]:
    """The words of the moments that broke, by their findings."""
    found: dict[str, list[str]] = {}
    for point in explored.broken:
        found.setdefault(point.outcome.code, []).append(point.where)
    return found


# Right workers

RIGHT = [
    ("blmove_worker", {"crash": 27, "interleaving": 24, "shutdown": 46, "disconnect": 19}, []),
    ("multi_worker", {"crash": 19, "interleaving": 22, "shutdown": 34, "disconnect": 15},
     [NO_BLOCKING]),
]  # fmt: skip


@pytest.mark.parametrize("kind", EXPLORE)
@pytest.mark.parametrize(("script", "counts", "left_out"), RIGHT, ids=[r[0] for r in RIGHT])
def test_a_right_worker_breaks_nowhere(explore, script, counts, left_out, kind):
    explored = explore(script, kind)
    assert broken(explored) == {}
    assert judge(explored, "It works.") is None
    assert [point.skipped for point in explored.points if point.skipped] == []
    assert len(explored.tried) == counts[kind]
    assert {name.partition(": ")[2] for name in explored.unexplored} <= set(left_out)


def test_a_blocked_read_is_explored_with_the_worker_already_waiting(explore):
    words = [point.where for point in explore("blmove_worker", "crash").points]
    assert any("“reply to BLMOVE work_queue" in text for text in words)
    assert any("while it waited at Redis for the answer to “BLMOVE" in text for text in words)
    assert any("“MULTI; SET result:?" in text for text in words), words


def test_the_table_reads_the_same_on_every_run(explore):
    first, second = (explore("multi_worker", "disconnect") for _ in range(2))
    assert coverage(first) == coverage(second)


# A worker that is right as far as at-most-once goes


def test_at_most_once_is_shown_and_named(explore):
    """BRPOP loses the job in hand when its worker is killed, and only there."""
    found = broken(explore("brpop_worker", "crash"))
    assert list(found) == ["task-lost"]
    assert all(
        re.search(r"BRPOP work_queue 1”|the work of T1", text) for text in found["task-lost"]
    )
    assert broken(explore("brpop_worker", "interleaving")) == {}
    stopped = broken(explore("brpop_worker", "shutdown"))
    assert all("SIGKILL" in text for texts in stopped.values() for text in texts), stopped


# Wrong workers

WRONG = [
    ("wrong_acks_before_work", "crash", "task-lost", r"carried out “LREM processing"),
    ("wrong_never_sweeps", "crash", "task-left-in-processing", r"carried out “BLMOVE work_queue"),
    ("wrong_two_steps_pop", "interleaving", "task-executed-twice", r"“LINDEX work_queue -1”"),
    ("wrong_two_steps_move", "crash", "task-lost", r"carried out “RPOP work_queue”"),
    ("wrong_result_then_remove", "crash", "task-executed-twice", r"carried out “SET result:"),
    ("wrong_handler_raises", "shutdown", "task-lost", r"SIGTERM after .*“BRPOP work_queue 1”"),
    ("wrong_dead_connection", "disconnect", "dead-connection", r"all connections cut"),
    ("wrong_empties_queue", "shutdown", "claimed-after-stop", r"SIGTERM"),
    ("wrong_exit_143", "shutdown", "wrong-exit-status", r"SIGTERM"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "kind", "code", "moment"), WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_worker_breaks_at_the_right_moment(explore, script, kind, code, moment):
    explored = explore(script, kind)
    found = broken(explored)
    assert any(re.search(moment, text) for text in found.get(code, [])), found
    finding, seen = judge(explored, "It works.")
    assert finding.code == explored.broken[0].outcome.code
    assert seen is not None
    assert any(event.data.get("broke") for event in seen.events)
    assert any(step.server in ("redis", WORLD) for event in seen.events
               if (step := event.data.get("step")) is not None)
