"""The explorations of a single act, and what checks of labs 01 and 02 hold in their hands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from graders.harness import history as h
from graders.harness import mutants, settings
from graders.harness.catalog import checks_of
from graders.harness.explore import acts
from graders.harness.report import timeline
from graders.harness.results import FAILED, CheckResult
from graders.harness.session import GradingSession, Options
from graders.lab01 import moments as lab01
from graders.lab02 import moments as lab02

LAB01, LAB02 = settings.lab("lab01"), settings.lab("lab02")


@contextlib.contextmanager
def prepared(lab: settings.Lab, folder: Path) -> Iterator[GradingSession]:
    """A grading run that has everything and grades nothing."""
    session = GradingSession(lab.name, {}, Options.read(LAB=lab.name, SRC=str(folder)))
    try:
        session._prepare()
        yield session
    finally:
        session.finish()


@pytest.fixture(scope="module")
def redis_run() -> Iterator[GradingSession]:
    with prepared(LAB01, settings.ROOT / "solutions" / "lab01") as session:
        yield session


@pytest.fixture(scope="module")
def postgres_run() -> Iterator[GradingSession]:
    with prepared(LAB02, settings.ROOT / "solutions" / "lab02") as session:
        yield session


def explored(lab: settings.Lab, name: str, mutant: str, to: Path, step: str = "") -> CheckResult:
    """The result of one exploration of a mutant, whatever it needs."""
    wrong = next(each for each in mutants.mutants(lab) if each.name == mutant)
    folder = mutants.make(lab, wrong, to / mutant)
    checks = {name: replace(checks_of(lab)[name], needs=())}
    options = replace(Options.read(LAB=lab.name, SRC=str(folder), CHECK=name), step=step)
    session = GradingSession(lab.name, checks, options)
    session.start()
    try:
        return session.result_of(name)
    finally:
        session.finish()


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
    first, second = redis_run.room("first"), redis_run.room("second")
    try:
        first.add_job()
        assert len(first.queued()) == 1
        assert second.queued() == []
    finally:
        first.close()
        second.close()
    third = redis_run.room("third")
    try:
        assert third.ask(lambda r: r.dbsize()) == 0
    finally:
        third.close()


def test_a_request_and_its_answer_are_told_in_the_history(postgres_run):
    room = postgres_run.room("told")
    try:
        api = room.start_api()
        answer = api.request("POST", "/tasks", {"title": "sort the mail"})
        assert (answer.status, answer.json["data"]["title"]) == (201, "sort the mail")
        sent, = room.history.events(h.REQUEST_SENT)
        came, = room.history.events(h.REQUEST_ANSWERED)
        assert (sent.who, came.who) == ("client", "api")
        assert sent.text == 'POST /tasks {"title": "sort the mail"}'
        assert came.text.startswith("201 ")
        drawn = timeline.draw(timeline.rows(room.history.events()), most=None)
        assert drawn[0].split()[:3] == ["seconds", "client", "api"]
    finally:
        room.close()


def test_what_became_of_a_request_that_got_no_answer_is_said(postgres_run):
    room = postgres_run.room("unanswered")
    try:
        api = room.start_api()
        api.kill()
        request = api.send("GET", "/health")
        assert api.wait_answer(request) is None
        assert request.problem == "the connection was refused"
        with pytest.raises(AssertionError, match=r"api was ended by SIGKILL"):
            api.answer_of(request)
    finally:
        room.close()


def test_migrations_run_on_a_database_that_the_role_owns_and_others_do_not(postgres_run):
    room = postgres_run.room("owned")
    try:
        database = room.empty_database()
        assert room.catalogue(database, "SELECT to_regclass('tasks') AS t") == [{"t": None}]
        room.migrate("up", database)
        (row,) = room.catalogue(
            database, "SELECT tableowner AS who FROM pg_tables WHERE tablename = 'tasks'"
        )
        assert row["who"] == database.worker_user
        (row,) = room.sql("SELECT tableowner AS who FROM pg_tables WHERE tablename = 'tasks'")
        assert row["who"] != room.database.worker_user
    finally:
        room.close()


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
        room = session.room(f"whole-{kind}")
        try:
            acts.explore(room, kind, act, "It works.")
            assert room.coverage.count >= 1
            assert {m.outcome for m in room.coverage.moments} == {"held"}
        finally:
            room.close()
