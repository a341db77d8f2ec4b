"""The explorations of a single act, and what checks of labs 01 and 02 hold in their hands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graders.harness import history as h
from graders.harness import settings
from graders.harness.explore import acts
from graders.harness.report import timeline
from graders.harness.results import FAILED, CheckResult
from graders.harness.session import GradingSession
from graders.lab01 import moments as lab01
from graders.lab02 import moments as lab02
from graders.tests.exploring import graded_alone, prepared, worker

BOUND = 30.0  # seconds
LAB01, LAB02 = settings.lab("lab01"), settings.lab("lab02")


@pytest.fixture(scope="module")
def redis_run() -> Iterator[GradingSession]:
    with prepared(worker("reference", Path(), LAB01), LAB01) as session:
        yield session


@pytest.fixture(scope="module")
def postgres_run() -> Iterator[GradingSession]:
    with prepared(worker("reference", Path(), LAB02), LAB02) as session:
        yield session


def explored(lab: settings.Lab, name: str, mutant: str, to: Path, step: str = "") -> CheckResult:
    """The result of one exploration of a mutant, whatever it needs."""
    folder = worker(mutant, to, lab)
    return graded_alone(lab, folder, [name], step)[name]


@contextlib.contextmanager
def opened(session: GradingSession, name: str) -> Iterator[Any]:
    """What a check of this name holds in its hands."""
    room = session.room(name)
    try:
        yield room
    finally:
        room.close()


# What is recorded


def test_the_moments_of_a_request_are_the_same_on_every_run(redis_run):
    act = lab01.PostTask()
    first, odd = acts._record_twice(redis_run, act)
    second, _ = acts._record_twice(redis_run, act)
    assert [m.key for m in first] == [m.key for m in second]
    assert odd == []
    assert len(first) == 1  # MULTI to EXEC is one step
    assert "HSET task:?" in first[0].name
    assert "LPUSH work_queue" in first[0].name


def test_the_moments_of_a_migration_begin_with_its_connection(postgres_run):
    moments, odd = acts.recorded(postgres_run, lab02.MigrateUp())
    assert odd == []
    assert moments[0].kind == "connect"
    assert sum("CREATE TABLE tasks" in m.words for m in moments) == 1
    assert acts.recorded(postgres_run, lab02.MigrateUp())[0] is moments  # recorded once per run


# What breaks


def test_a_task_that_is_half_written_is_found_at_its_step(tmp_path):
    result = explored(LAB01, "writes_all_or_nothing", "written_one_by_one", tmp_path)
    assert (result.verdict, result.finding.code) == (FAILED, "half-written")
    assert "killed after Redis had carried out “HSET task:?" in result.finding.seen
    assert "the hash of the task is there, and 0 of its 4 jobs are in work_queue" in (
        result.finding.seen
    )
    assert [m.outcome for m in result.coverage.moments] == ["half-written", "held"]
    lanes = {row.lane for row in result.timeline}
    assert {"client", "api"} <= lanes


def test_one_moment_of_an_act_is_replayed_alone(tmp_path, capsys):
    name = "migrates_whole_or_not_at_all"
    whole = explored(LAB02, name, "recorded_afterwards", tmp_path / "whole")
    broken = next(m for m in whole.coverage.moments if m.outcome == "half-migrated")
    capsys.readouterr()
    alone = explored(LAB02, name, "recorded_afterwards", tmp_path / "alone", step=broken.step)
    assert [m.step for m in alone.coverage.moments] == [broken.step]
    assert alone.finding.code == "half-migrated"
    assert "migrate-2 logs: migrate: 001_create_tasks.up.sql failed" in capsys.readouterr().out


def test_an_act_that_does_not_work_is_told_so_and_not_explored(tmp_path):
    result = explored(LAB02, "stores_all_or_nothing", "syntax_error", tmp_path)
    assert (result.verdict, result.finding.code) == (FAILED, "api-exited")
    assert result.coverage is None


# What checks hold in their hands


def test_each_check_of_a_queue_has_a_database_of_its_own(redis_run):
    with opened(redis_run, "first") as first, opened(redis_run, "second") as second:
        first.add_job()
        assert len(first.queued()) == 1
        assert second.queued() == []
    with opened(redis_run, "third") as third:
        assert third.ask(lambda r: r.dbsize()) == 0


def test_a_request_and_its_answer_are_told_in_the_history(postgres_run):
    with opened(postgres_run, "told") as room:
        api = room.start_api()
        answer = api.request("POST", "/tasks", {"title": "sort the mail"})
        assert (answer.status, answer.json["data"]["title"]) == (201, "sort the mail")
        sent, = room.history.events(h.REQUEST_SENT)
        came = room.history.wait(lambda e: e.kind == h.REQUEST_ANSWERED, BOUND)
        assert (sent.who, came.who) == ("client", "api")
        assert sent.text == 'POST /tasks {"title": "sort the mail"}'
        assert came.text.startswith("201 ")
        drawn = timeline.draw(timeline.rows(room.history.events()), most=None)
        assert drawn[0].split()[:3] == ["seconds", "client", "api"]


def test_what_an_api_heard_before_it_answered_is_told_before_its_answer(postgres_run, monkeypatch):
    """However slowly the grader's own loop gets to telling it."""
    with opened(postgres_run, "slow") as room:
        api = room.start_api()
        late = threading.Event()
        delivered = api.wire._delivered

        def deliver_late(step):
            if "INSERT" in step.words:
                late.wait(BOUND)
            delivered(step)

        monkeypatch.setattr(api.wire, "_delivered", deliver_late)
        request = api.send("POST", "/tasks", {"title": "sort the mail"})
        while request.answer is None and not request.problem:
            room.history.wait(lambda _: False, 0.01)
        assert not request.over
        late.set()
        api.answer_of(request)
        room.history.wait(lambda e: e.kind == h.REQUEST_ANSWERED, BOUND)
        # Of this request and its INSERT only: the pool may log in meanwhile, or afterwards.
        told = [e.kind for e in room.history.events()
                if e.data.get("request") is request
                or ("step" in e.data and "INSERT" in e.data["step"].words)]
        assert told == [h.REQUEST_SENT, h.STEP_ARRIVED, h.STEP_ANSWERED, h.STEP_DELIVERED,
                        h.REQUEST_ANSWERED]


def test_what_became_of_a_request_that_got_no_answer_is_said(postgres_run):
    with opened(postgres_run, "unanswered") as room:
        api = room.start_api()
        api.kill()
        request = api.send("GET", "/health")
        assert api.wait_answer(request) is None
        assert request.problem == "the connection was refused"
        with pytest.raises(AssertionError, match=r"api was ended by SIGKILL"):
            api.answer_of(request)


def test_migrations_run_on_a_database_that_the_role_owns_and_others_do_not(postgres_run):
    with opened(postgres_run, "owned") as room:
        database = room.empty_database()
        assert room.catalogue(database, "SELECT to_regclass('tasks') AS t") == [{"t": None}]
        room.migrate("up", database)
        (row,) = room.catalogue(
            database, "SELECT tableowner AS who FROM pg_tables WHERE tablename = 'tasks'"
        )
        assert row["who"] == database.worker_user
        (row,) = room.sql("SELECT tableowner AS who FROM pg_tables WHERE tablename = 'tasks'")
        assert row["who"] != room.database.worker_user


def test_a_private_copy_is_changed_alone(postgres_run):
    private = postgres_run.private_copy("mine")
    (private / "migrations" / "999_more.up.sql").write_text("SELECT 1;")
    assert not (postgres_run.submission.copy / "migrations" / "999_more.up.sql").exists()


def test_the_reference_holds_at_every_moment(postgres_run, redis_run):
    for session, act, kind in (
        (redis_run, lab01.PostTask(), acts.CRASH), (postgres_run, lab02.PostTask(), acts.SHUTDOWN),
        (postgres_run, lab02.PostTask(), acts.DISCONNECT),
        (postgres_run, lab02.MigrateUp(), acts.INTERLEAVING),
    ):
        with opened(session, f"whole-{kind}") as room:
            acts.explore(room, kind, act, "It works.")
            assert room.coverage.count >= 1
            assert {m.outcome for m in room.coverage.moments} == {"held"}
