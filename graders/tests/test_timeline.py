"""The timeline: what is told, what is folded, and how it is drawn."""

from __future__ import annotations

import pytest

from graders.harness import history as h
from graders.harness import results
from graders.harness.report import timeline
from graders.harness.report.sql import shorten
from graders.harness.report.text import width_of
from graders.harness.results import TimelineRow
from graders.tests import report_samples as samples
from graders.tests.report_samples import T1, T2, FakeStep, Tale


def texts(events: list[h.Event], **more: object) -> list[str]:
    return [row.text for row in timeline.rows(events, **more)]


def test_a_statement_and_its_answer_are_one_row() -> None:
    tale = Tale()
    tale.task(T1, "T1")
    tale.say("worker-1", samples.DONE, "UPDATE 1", params=("completed", T1))
    tale.row(T1, "processing", "completed", "worker-1")
    rows = timeline.rows(tale.events)
    assert [r.text for r in rows] == [
        "adds T1 “Send the report”",
        "UPDATE tasks SET status = 'completed', … WHERE id = T1 → 1 row",
        "T1: processing → completed",
    ]
    assert (rows[1].lane, rows[1].to) == ("worker-1", "postgres")
    assert (rows[2].lane, rows[2].to) == ("postgres", None)


def test_the_answer_has_a_row_of_its_own_when_something_came_between() -> None:
    events, _ = samples.executed_twice()
    rows = timeline.rows(events)
    answers = [r for r in rows if r.text == "answer to SELECT: 1 row"]
    assert [(r.lane, r.to) for r in answers] == [("postgres", "worker-1"), ("postgres", "worker-2")]


def test_begin_joins_the_statement_that_it_opens() -> None:
    tale = Tale()
    tale.say("worker-1", "BEGIN", "BEGIN")
    tale.say("worker-1", "SELECT 1 FROM tasks", "SELECT 0")
    tale.say("worker-1", "COMMIT", "COMMIT")
    assert texts(tale.events) == ["BEGIN; SELECT 1 FROM tasks → no row", "COMMIT"]


def test_a_begin_of_another_connection_stays_alone() -> None:
    tale = Tale()
    tale.say("worker-1", "BEGIN", "BEGIN", connection=1)
    tale.say("worker-1", "SELECT 1", "SELECT 1", connection=2)
    assert texts(tale.events) == ["BEGIN", "SELECT 1 → 1 row"]


def test_a_lost_answer_is_told() -> None:
    tale = Tale()
    step = tale.arrive(tale.step("worker-1", sql="COMMIT"))
    tale.answer(step, "COMMIT")
    tale.add(h.SIGNAL, "worker-1", signal="SIGKILL")
    tale.add(h.DISCONNECTED, "worker-1", connection=1, by="client")
    tale.add(h.EXIT, "worker-1", code=None, signal="SIGKILL")
    assert texts(tale.events) == [
        "COMMIT (but worker-1 never got the answer)",
        "SIGKILL is sent to worker-1",
        "ended by SIGKILL",
    ]


def test_a_statement_without_an_answer_is_told() -> None:
    tale = Tale()
    tale.arrive(tale.step("worker-1", sql="SELECT id FROM tasks FOR UPDATE"))
    assert texts(tale.events) == ["SELECT id FROM tasks FOR UPDATE (no answer yet)"]


def test_an_error_of_the_server_is_told() -> None:
    tale = Tale()
    tale.say("worker-1", "SELECT nope", error='column "nope" does not exist')
    assert texts(tale.events) == ['SELECT nope → ERROR: column "nope" does not exist']


def test_idle_polls_are_told_once() -> None:
    rows = timeline.rows(samples.polling(40))
    assert len(rows) == 9
    assert "… these 3 rows 39 times more" in rows[5].text


def test_two_polls_are_both_told() -> None:
    rows = timeline.rows(samples.polling(2))
    assert sum(r.text == "COMMIT" for r in rows) == 2


def test_the_finding_inside_folded_rows_stays_marked() -> None:
    events = samples.polling(40)
    rows = timeline.rows(events, events[200])
    assert [r.text[:15] for r in rows if r.mark] == ["… these 3 rows "]


def test_a_flood_of_log_lines_is_shortened() -> None:
    tale = Tale()
    for n in range(5000):
        tale.log("worker-1", f"line {'x' * (n % 7)}")
    assert len(timeline.rows(tale.events)) == 4


def test_tasks_added_together_are_one_row() -> None:
    tale = Tale()
    for n in range(1, 11):
        tale.task(f"{T1[:-2]}{n:02}", f"T{n}")
    assert texts(tale.events) == ["adds T1 to T10 (10 tasks)"]


def test_a_second_execution_is_counted() -> None:
    events, broke = samples.executed_twice()
    marked = [r for r in timeline.rows(events, broke) if r.mark == timeline.BROKE]
    assert [r.text for r in marked] == ["executes T1, execution number 2"]


def test_a_note_can_say_where_it_broke() -> None:
    events, broke = samples.executed_twice()
    tale = Tale(list(events), events[-1].at)
    note = tale.add(h.NOTE, "grader", "this broke", code="task-executed-twice", broke=True)
    assert timeline.rows(tale.events)[-1] == TimelineRow(
        note.at, "grader", None, "found: task-executed-twice", "broke", results.FOUND)
    named = Tale(list(events), events[-1].at)
    named.add(h.NOTE, "grader", "this broke", code="x", broke=True, event=broke)
    assert timeline.rows(named.events) == timeline.rows(events, broke)


def test_pool_checks_prepares_and_the_worlds_steps_are_no_rows() -> None:
    tale = Tale()
    for kind in ("check", "call", "call-answer"):
        step = tale.arrive(FakeStep("worker-1", 1, kind, kind))
        tale.deliver(tale.answer(step))
    step = tale.arrive(tale.step("worker-1", "prepare", "SELECT 1"))
    tale.deliver(tale.answer(step))
    tale.say("worker-1", "SELECT 1", "SELECT 1")
    assert texts(tale.events) == ["SELECT 1 → 1 row"]


def test_a_connection_that_is_not_closed_is_told() -> None:
    tale = Tale()
    tale.connect("worker-1")
    tale.add(h.DISCONNECTED, "worker-1", connection=1, by="client")
    tale.add(h.EXIT, "worker-1", code=0, signal=None)
    assert texts(tale.events) == [
        "connects", "drops its connection without closing it", "exits with status 0"]


def test_redis_commands_go_to_redis() -> None:
    tale = Tale()
    step = tale.arrive(FakeStep("worker-1", 1, "command", "BRPOP work_queue 1"))
    tale.deliver(tale.answer(step, "nil"))
    rows = timeline.rows(tale.events)
    assert [(r.lane, r.to, r.text) for r in rows] == [
        ("worker-1", "redis", "BRPOP work_queue 1 → nil")]
    assert "Redis" in timeline.draw(rows)[0]


def test_no_events_no_rows_no_lines() -> None:
    assert timeline.rows([]) == []
    assert timeline.draw([]) == []
    assert timeline.rows([], broke=3) == []


def test_a_long_timeline_keeps_the_row_that_broke() -> None:
    rows = [TimelineRow(n / 10, "worker-1", "postgres", f"row {n}", "broke" if n == 70 else "")
            for n in range(200)]
    lines = timeline.draw(rows, most=20)
    assert len(lines) <= 1 + 20 + 2
    here = next(line for line in lines if "HERE" in line)
    assert here.startswith(">>")
    assert "row 70" in here
    left = [int(line.split("…")[1].split()[0]) for line in lines if "left out" in line]
    shown = sum("▶" in line for line in lines)
    assert sum(left) + shown == 200
    assert "row 0" in lines[1]
    assert "row 199" in lines[-1]


@pytest.mark.parametrize("broke", [0, 9, 10, 11, 14, 20, 60, 99, 100, 101, 140, 199])
def test_no_row_is_kept_twice_wherever_it_broke(broke: int) -> None:
    tale = Tale()
    for n in range(200):
        tale.say("worker-1", f"SELECT {n} AS number_{n}", f"SELECT {n}")
    events = tale.events
    at = next(e for e in events if f"number_{broke}" in e.text)
    rows = timeline.rows(events, broke=at, most=30)
    texts = [row.text for row in rows if row.kind != results.GAP]
    assert len(rows) == 30
    assert len(set(texts)) == len(texts)
    assert [row.text for row in rows if row.mark == "broke"] == [
        text for text in texts if f"number_{broke}" in text
    ]
    (gap,) = (row for row in rows if row.kind == results.GAP)
    whole = len(timeline.rows(events, broke=at, most=10_000))
    assert gap.text == f"… {whole - len(texts)} rows left out"
    assert [row.at for row in rows] == sorted(row.at for row in rows)


def test_very_long_histories_are_kept_short() -> None:
    tale = Tale()
    for n in range(5000):
        tale.say("worker-1", f"SELECT {n}", "SELECT 1")
    rows = timeline.rows(tale.events, broke=9000)
    assert len(rows) <= timeline.MOST_ROWS
    assert sum(r.mark == "broke" for r in rows) == 1


def test_many_workers_are_named_in_each_row() -> None:
    tale = Tale()
    for n in range(12):
        tale.say(f"worker-{n}", "SELECT 1", "SELECT 1")
    lines = timeline.draw(timeline.rows(tale.events))
    assert "worker-11 → PostgreSQL" in lines[-1]
    assert all(width_of(line) <= 100 for line in lines)


def test_lanes_are_in_order() -> None:
    rows = [TimelineRow(0.0, lane, None, "x") for lane in
            ("world", "postgres", "worker-10", "worker-2", "grader")]
    assert timeline.draw(rows, width=140)[0].split() == [
        "seconds", "worker-2", "worker-10", "PostgreSQL", "world"]


@pytest.mark.parametrize(("sql", "params", "short"), [
    ("SELECT id, title, description, type FROM tasks WHERE status='pending'", (),
     "SELECT … FROM tasks WHERE status = 'pending'"),
    ("select count(*) from tasks", (), "select count(*) from tasks"),
    ("UPDATE tasks SET assigned_worker = $1, status = 'processing' WHERE id = $2::uuid",
     ("w", T1), "UPDATE tasks SET status = 'processing', … WHERE id = T1"),
    ("UPDATE tasks SET updated_at = now() WHERE id = $1", (T2,),
     "UPDATE tasks SET updated_at = now() WHERE id = 'b2d94c11…'"),
    (f"UPDATE tasks SET status = 'failed' WHERE id = '{T1}'", (),
     "UPDATE tasks SET status = 'failed' WHERE id = T1"),
    ("INSERT INTO tasks (id, title) VALUES ($1, $2), ($3, $4)", ("a", "b", "c", "d"),
     "INSERT INTO tasks (…) VALUES (…), (…)"),
    ("SELECT 'it''s', $1 -- why\n", (None,), "SELECT …"),
    ("COMMIT;", (), "COMMIT"),
    ("LISTEN tasks", (), "LISTEN tasks"),
    ("", (), ""),
    ("SELECT ((( $9", (), "SELECT ((($9"),
    ("'unclosed", (), "' unclosed"),
])
def test_sql_is_shortened(sql: str, params: tuple, short: str) -> None:
    assert shorten(sql, params, {T1: "T1"}) == short


def test_the_usual_claim_keeps_what_matters() -> None:
    assert shorten(samples.CLAIM_SKIP, ("worker-1",)) == (
        "UPDATE tasks SET status = 'processing', … WHERE id = (SELECT id FROM tasks WHERE status = "
        "'pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING …")


def test_what_is_left_out_of_a_long_statement_is_marked() -> None:
    claim = samples.CLAIM_SKIP.replace("status = 'pending'",
                                       "status = 'pending' AND type = 'generic' AND priority > 10")
    assert shorten(claim) == (
        "UPDATE tasks SET status = 'processing', … WHERE id = (SELECT id FROM tasks WHERE status = "
        "'pending' AND type = 'generic' AND priority > 10 … FOR UPDATE SKIP LOCKED) …")
