"""The explorations proved: wrong workers break at the right moment, right ones nowhere, always."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import pytest

from graders.harness import history as h
from graders.harness.check import CouldNotGrade
from graders.harness.explore import interleave, points, words
from graders.harness.explore.record import Moment, Recorder
from graders.harness.explore.stage import (
    FAILING_WORK,
    PENDING_TASK,
    STUCK_TASK,
    THREE_TASKS,
    Execution,
    Item,
)
from graders.harness.places import Bound, Places
from graders.harness.report import timeline
from graders.harness.results import FAILED, HELD, NOT_EXPLORED, PASSED
from graders.lab03.moments import SETTING
from graders.tests.exploring import CHECKS, explored, hungry, prepared, worker

RIGHT = (
    "reference", "pool_of_three", "asyncio_pool", "asyncpg_worker", "heartbeat_thread",
    "reaper_thread", "listener", "pipeline_mode", "bash_psql",
)  # fmt: skip
RUNS = int(os.environ.get("EXPLORE_RUNS", "10"))
SCENARIOS = (PENDING_TASK, STUCK_TASK, THREE_TASKS, FAILING_WORK)


# Wrong workers -----------------------------------------------------------------------------------

# The worker, the exploration that catches it, the finding, and the words of a moment that broke.
WRONG = [
    ("select_then_update", "interleaving", "task-executed-twice", r"answered “SELECT .*\(1 row\)"),
    ("skip_locked_in_autocommit", "interleaving", "task-executed-twice",
     r"SKIP …?.*\(1 row\)|SKIP LOCKED.*\(1 row\)"),
    ("for_update_without_skip_locked", "interleaving", "waits-for-lock",
     r"FOR UPDATE” \(1 row\), inside the transaction"),
    ("one_statement_without_lock", "interleaving", "task-executed-twice",
     r"both workers asked for the same row"),
    # Whoever takes over is as wrong, so it shows itself wherever the first one is killed …
    ("completed_before_the_work", "crash", "completed-before-the-work", r"accepted its connection"),
    ("never_recovers", "crash", "task-left-in-processing",
     r"committed “UPDATE tasks SET status = 'processing'"),
    ("age_measured_from_creation", "interleaving", "task-executed-twice",
     r"committed “UPDATE tasks SET status = 'processing'|while the outside world did the work"),
    ("start_resets_everything", "interleaving", "task-executed-twice",
     r"while the outside world did the work of T1, and let a second one, just started"),
    ("first_signal_is_hard", "shutdown", "task-left-in-processing",
     r"SIGTERM after PostgreSQL had committed “UPDATE tasks SET status = 'processing'"),
    ("empties_the_queue_first", "shutdown", "claimed-after-stop", r"SIGTERM while the outside"),
    ("status_143_after_a_clean_stop", "shutdown", "wrong-exit-status", r"SIGTERM while the out"),
    ("dead_connection_kept", "disconnect", "dead-connection", r"all connections cut before"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "code", "moment"), WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_worker_breaks_at_the_right_moment(name, kind, code, moment, tmp_path):
    result = explored(worker(name, tmp_path), kind)[kind]
    assert result.verdict == FAILED, result.reason
    assert result.finding.code == code
    broke = [m.words for m in result.coverage.moments if m.outcome == code]
    assert [text for text in broke if re.search(moment, text)], broke
    # The first moment stands in the finding, with its timeline.
    assert broke[0].lower()[:60] in result.finding.seen.lower()
    assert any(row.mark == "broke" for row in result.timeline)
    assert result.finding.evidence[0].title.startswith("All ")
    assert result.steps


def test_a_completion_before_the_work_is_seen_where_nobody_works_any_more(tmp_path):
    """… and where it was killed between its completion and the work, nobody ever does it."""
    result = explored(worker("completed_before_the_work", tmp_path), "crash")["crash"]
    never = [m for m in result.coverage.moments if m.outcome == "task-wrongly-completed"]
    assert never
    assert all("committed “UPDATE tasks SET status" in m.words for m in never)


def test_who_had_completed_a_task_had_it_in_hand_no_more(tmp_path):
    """Also where somebody has overwritten the completion since: the sentence has to be true."""
    result = explored(worker("select_then_update", tmp_path), "interleaving")["interleaving"]
    # Both have chosen the task, and neither has claimed it yet.
    told = {m.words.rpartition(", run ")[2]: m.told for m in result.coverage.moments
            if "answered “SELECT" in m.words and m.told}
    assert "worker-1 executed T1, whose completion had been committed before" in (
        told["until it was idle"]
    )
    assert "in the hands of worker-2" in told["as far as its work"]


def test_a_worker_that_gives_nothing_to_explore_fails_and_is_told_why(tmp_path):
    """That is its own fault and not the kit's, so it is no “could not grade”."""
    told = explored(worker("waits_before_the_first_poll", tmp_path), *CHECKS)
    for kind, result in told.items():
        assert (result.verdict, result.finding.code) == (FAILED, "task-never-executed"), kind
        assert "a task pending when it starts, the worker does not execute it" in (
            result.finding.seen
        )


def test_one_moment_is_replayed_alone(tmp_path, capsys):
    folder = worker("never_recovers", tmp_path)
    whole = explored(folder, "crash")["crash"]
    broke = next(m for m in whole.coverage.moments if m.outcome != HELD)
    alone = explored(folder, "crash", step=broke.step)["crash"]
    assert [(m.step, m.words, m.outcome) for m in alone.coverage.moments] == [
        (broke.step, broke.words, broke.outcome)
    ]
    told = capsys.readouterr().out
    assert "worker-1 -> PostgreSQL: UPDATE tasks SET status = 'processing'" in told
    assert "worker-1: SIGKILL" in told
    assert all(len(line) <= 100 for line in told.splitlines())


def test_a_moment_that_is_not_there_is_not_graded(tmp_path):
    result = explored(worker("reference", tmp_path), "crash", step="99")["crash"]
    assert result.verdict == "could-not-grade"
    assert "STEP=99" in result.reason


# Right workers -----------------------------------------------------------------------------------


@pytest.mark.hungry
def test_the_reference_gives_the_same_table_beside_hungry_neighbours(tmp_path):
    tables = []
    for neighbours in (0, 4):
        with hungry(neighbours):
            results = explored(worker("reference", tmp_path), *CHECKS)
        assert {r.verdict for r in results.values()} == {PASSED}, results
        assert not [r for r in results.values() if r.coverage.unexplored]
        tables.append({kind: r.coverage for kind, r in results.items()})
    assert tables[0] == tables[1]
    # Nothing vacuous: each exploration has tried all that the reference does.
    assert {kind: covered.count for kind, covered in tables[0].items()} == {
        "crash": 19, "interleaving": 35, "shutdown": 30, "disconnect": 19,
    }  # fmt: skip
    assert all(m.outcome == HELD for covered in tables[0].values() for m in covered.moments)


@pytest.mark.hungry
@pytest.mark.parametrize("name", RIGHT)
def test_the_same_moments_on_each_of_ten_runs(name, tmp_path):
    """Beside four neighbours that use all the CPU they get."""
    with prepared(worker(name, tmp_path)) as session, hungry(4):
        tables = []
        for _ in range(RUNS):
            recorder = Recorder(session, SETTING)
            recorder.ahead(SCENARIOS)
            table = {}
            for scenario in SCENARIOS:
                try:
                    recorded = recorder.recorded(scenario)
                except Exception as error:
                    table[scenario.name] = str(error)
                else:
                    # What is told apart when trials are made of them.
                    table[scenario.name] = (
                        {moment.alike for moment in recorded.moments}, recorded.unaligned
                    )
            tables.append(table)
    assert len(tables[0]["pending"][0]) > 5
    for table in tables[1:]:
        assert table == tables[0]
    assert not [t for t in tables[0].values() if not isinstance(t, str) and t[1]]


def test_a_step_that_does_not_always_come_is_listed_and_harms_nothing(tmp_path):
    folder = worker("asyncio_pool", tmp_path)  # a folder of its own, to be changed
    queue = folder / "worker" / "__main__.py"
    text = queue.read_text(encoding="utf-8")
    # Of the processes only the second says it: one of the two that are recorded first.
    once = (
        "import itertools\n"
        "def numbered():\n"
        "    for number in itertools.count(1):\n"
        "        try:\n"
        "            open(f'process-{number}', 'x').close()\n"
        "        except FileExistsError:\n"
        "            continue\n"
        "        return number\n"
        "NUMBER = numbered()\n"
    )
    marker = "async with pool.connection() as connection:"
    assert marker in text
    head, _, rest = text.partition("async def ")
    body = ("async def " + rest).replace(
        marker, marker + "\n        if NUMBER == 2:\n"
        "            await connection.execute(\"SELECT 'now and then'\")", 1
    )
    queue.write_text(head + once + "\n\n" + body, encoding="utf-8")
    result = explored(folder, "crash")["crash"]
    assert result.verdict == PASSED, (result.reason, result.finding)
    assert [name for name in result.coverage.unexplored if "now and then" in name]


# The parts ---------------------------------------------------------------------------------------


class _Session:
    stopping = False
    trials = Bound(2)


def test_a_trial_that_was_felt_is_run_once_more_and_then_could_not_grade():
    runs = []

    def felt() -> None:
        runs.append(1)
        raise points.Felt("the worker gave up waiting while it was held")

    point = points.Point("7b", "held it", "one pending task", felt)
    points.run(_Session(), [point], 1)
    assert len(runs) == 2
    with pytest.raises(CouldNotGrade, match="STEP=7b"):
        points.judge(points.Explored("crash point", [point]), "It works.")


def test_a_trial_that_was_felt_once_counts_when_it_goes_well():
    runs = []

    def felt_once() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise points.Felt("it was held for too long")

    point = points.Point("1", "held it", "one pending task", felt_once)
    points.run(_Session(), [point], 1)
    assert (point.verdict, len(runs)) == (HELD, 2)
    assert points.judge(points.Explored("crash point", [point]), "It works.") is None


def test_the_last_moment_of_a_walk_is_tried_again_where_it_was_felt(monkeypatch):
    """It counts as passed only after it is known that the worker did not feel it."""
    tried = []

    class Walk(interleave.Walk):
        def __init__(self, lane, numbers, mode):
            tried.append(list(numbers))
            self.lane, self.numbers, self.done = lane, numbers, []
            self.passed, self.took = 0, False
            self.stage = SimpleNamespace(history=h.History())
            self.first = SimpleNamespace(hold=lambda moment: SimpleNamespace(release=lambda: None))

        def run(self):
            moments = self._led()
            next(moments)
            for number in moments:
                self.done.append(number)
                self.passed += 1

        def _expect_not_felt(self, since):
            if len(tried) == 1 and self.passed == 2:
                raise points.Felt("worker-1 gave up waiting while it was held")

    monkeypatch.setattr(interleave, "Walk", Walk)
    monkeypatch.setattr(interleave, "come_to", lambda *_: None)
    call = Moment("world", "call", 1, "call", "", ())
    lane = interleave.Lane(_Session(), SETTING, PENDING_TASK, None, interleave.COLD,
                           {1: call, 2: call}, "", Places(1, Bound(1)))
    lane.run()
    assert tried == [[1, 2], [2]]
    assert [(point.label, point.skipped) for point in lane.points] == [("1b", ""), ("2b", "")]


@pytest.mark.parametrize(("name", "code"),
                         [("reference", ""), ("start_resets_everything", "task-executed-twice")])
def test_a_second_worker_that_gave_up_connecting_is_replaced(name, code, tmp_path, monkeypatch):
    """On a busy machine it is parked for longer than it waits: neither its fault nor the end."""
    park, gone, alive = interleave.Walk._park, [], []
    judge = interleave.judge_meeting

    def park_for_too_long(walk, player, door):
        park(walk, player, door)
        if player is not walk.first:
            player.process.kill()
            gone.append(player.name)

    def counted(stage):
        alive.append(sum(player.alive for player in stage.players))
        return judge(stage)

    monkeypatch.setattr(interleave, "judge_meeting", counted)
    monkeypatch.setattr(interleave.Walk, "_park", park_for_too_long)
    result = explored(worker(name, tmp_path), "interleaving")["interleaving"]
    assert gone
    assert max(alive) == 2  # nobody is left of the moments before
    assert (result.verdict, result.finding.code if result.finding else "") == (
        (FAILED, code) if code else (PASSED, "")), result.reason
    assert [m.words for m in result.coverage.moments if m.outcome == NOT_EXPLORED] == []


def test_the_timeline_names_what_broke():
    history = h.History()
    history.add(h.NOTE, "grader", "Killed worker-1.")
    history.add(h.NOTE, "grader", "this broke", broke=True, event=None)
    seen = points.Seen(tuple(history.events()), ("Killed worker-1.",), ())
    point = points.Point("1", "killed it", "one pending task", lambda: None)
    point.outcome = points.Broken("task-lost", "T1 is lost", seen)
    finding, shown = points.judge(points.Explored("crash point", [point]), "It works.")
    assert finding.code == "task-lost"
    assert [row.text for row in timeline.rows(shown.events)] == [
        "Killed worker-1.", "found: task-lost"]


def test_a_moment_that_is_not_reached_is_listed_and_no_moments_is_no_pass():
    def not_reached() -> None:
        raise points.NotReached("it did not come")

    point = points.Point("1", "held it", "one pending task", not_reached)
    other = points.Point("2", "held it", "one pending task", lambda: None)
    points.run(_Session(), [point, other], 1)
    assert (point.verdict, other.verdict) == (NOT_EXPLORED, HELD)
    assert points.judge(points.Explored("crash point", [point, other]), "It works.") is None
    with pytest.raises(CouldNotGrade, match="No crash point could be explored"):
        points.judge(points.Explored("crash point", [point]), "It works.")
    with pytest.raises(CouldNotGrade, match="No crash point"):
        points.judge(points.Explored("crash point"), "It works.")


class _Call:
    process = "worker-2"


def test_an_execution_is_judged_by_what_was_true_when_it_began():
    item = Item("1", "T1")
    fine = Execution(_Call(), item, "processing")
    assert points.twice(fine) is None
    assert points.twice(Execution(_Call(), item, "completed"))[0] == "task-executed-twice"
    assert "alive" in points.twice(Execution(_Call(), item, "processing", (fine,)))[1]


@pytest.mark.parametrize(
    ("state", "done", "fails", "code"),
    [
        ("completed", True, False, None),
        ("failed", True, True, None),
        ("completed", False, False, "task-wrongly-completed"),
        ("completed", True, True, "task-wrongly-completed"),
        ("failed", True, False, "task-wrongly-failed"),
        ("pending", True, False, "task-left-pending"),
        ("processing", False, False, "task-left-in-processing"),
        (None, True, False, "task-lost"),
    ],
)
def test_how_a_task_ended(state, done, fails, code):
    found = points.wrong_end(Item("1", "T1", fails), state, done)
    assert (found[0] if found else None) == code


def moment(said: str, name: str = "", **more) -> Moment:
    return Moment("postgres", name or said, 1, "query", said, **more)


def test_moments_in_words():
    claim = moment("COMMIT", "BEGIN; SELECT 1 FROM tasks; UPDATE tasks SET status = $1; COMMIT",
                   status="I", status_before="T")
    assert words.after(claim) == (
        "after PostgreSQL had committed “UPDATE tasks SET status = $1”, before the worker heard of "
        "it"
    )
    assert words.before(claim) == (
        "before the COMMIT of “UPDATE tasks SET status = $1” reached PostgreSQL"
    )
    alone = moment("UPDATE tasks SET status = $1", status="I", status_before="I",
                   tags=("UPDATE 1",))
    assert words.after(alone) == (
        "after PostgreSQL had run and committed “UPDATE tasks SET status = $1” (1 row), before the "
        "worker heard of it"
    )
    inside = moment("SELECT id FROM tasks FOR UPDATE", status="T", status_before="T",
                    tags=("SELECT 1",))
    assert words.after(inside) == (
        "after PostgreSQL had answered “SELECT id FROM tasks FOR UPDATE” (1 row), inside the "
        "transaction, before the worker heard of it"
    )
    call = Moment("world", "call T1", 1, "call", "call T1")
    assert words.after(call) == "while the outside world did the work of T1"


def test_what_a_killed_worker_had_begun_at_the_server_is_over(tmp_path):
    """A statement that waits for a lock would be carried out later: nobody tells the server."""
    with prepared(worker("for_update_without_skip_locked", tmp_path)) as session:
        stage = SETTING.open(session, "killed")
        try:
            (item,) = stage.put(PENDING_TASK)
            player = stage.player("worker-1", 0.1, 3600)
            with stage.lock(item):
                player.run()
                assert stage.wait(lambda: stage.is_blocked(player), session.budgets.boot)
                player.kill()
                backends = [b for wire in player.wires for b in wire.backends]
                assert backends
                assert stage.lab.sql("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)",
                                     (backends,)) == []
            assert stage.state(item) == "pending"
        finally:
            stage.close()
