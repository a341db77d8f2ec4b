"""A grading run: verdicts, needs, scoring, and what becomes of the kit's own failures."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from graders.harness import overload, results, settings
from graders.harness.check import Check, CouldNotGrade, Finding, check
from graders.harness.history import History
from graders.harness.overload import MUCH, is_own_load
from graders.harness.places import Bound, Places
from graders.harness.process import Caps, Process
from graders.harness.servers.base import poll
from graders.harness.session import GradingSession, Options

ROOT = settings.ROOT
REFERENCE = ROOT / "solutions" / "lab03"


@check("3a", points=10)
def test_passes(lab):
    """It passes."""
    lab.add_task()


@check("3a", points=20, needs=["passes"])
def test_fails(lab):
    """It fails."""
    task = lab.add_task()
    raise lab.finding("task-left-pending", "It is done.", "It is not.", lab.row_evidence(task))


@check("3a", points=5, needs=["fails"])
def test_needs_the_failed_one(lab):
    """It is not run."""
    raise AssertionError("must not be run")


@check("3a", points=5, needs=["needs_the_failed_one"])
def test_needs_the_one_that_was_not_run(lab):
    """It is not run either, and names the one to mend."""
    raise AssertionError("must not be run")


@check("3b", points=30, needs=["passes"])
def test_meets_trouble(lab):
    """The kit fails."""
    raise CouldNotGrade("The moon was in the way.")


@check("3b", points=20, needs=["meets_trouble"])
def test_needs_the_ungraded_one(lab):
    """It could not be graded either."""
    raise AssertionError("must not be run")


@check("3b", points=10, needs=["passes"])
def test_has_a_bug_of_its_own(lab):
    """A bug in a check is the kit's fault."""
    raise ZeroDivisionError("division by zero")


FAKES = {
    f.declared.name: f.declared
    for f in (
        test_passes, test_fails, test_needs_the_failed_one, test_needs_the_one_that_was_not_run,
        test_meets_trouble, test_needs_the_ungraded_one, test_has_a_bug_of_its_own,
    )
}  # fmt: skip
# They are checks for a session of this module, not tests for pytest.
for _fake in FAKES:
    del globals()[f"test_{_fake}"]


def run(checks, folder=REFERENCE, **options) -> results.LabResult:
    """Grade a folder by these checks."""
    chosen = Options.read(LAB="03", SRC=str(folder), SERVICES="embedded", **options)
    session = GradingSession("lab03", checks, chosen)
    session.start()
    for name in checks:
        session.result_of(name)
    return session.finish()


class Opened:
    """A room without anything in it."""

    steps, coverage = (), None
    events_to_show, close = staticmethod(list), staticmethod(list)

    def __init__(self) -> None:
        self.history = History()


@pytest.fixture(scope="module")
def graded() -> results.LabResult:
    """The checks above, graded once."""
    return run(FAKES)


def verdict(graded, name):
    return next(c for c in graded.checks if c.name == name)


def test_the_four_verdicts(graded):
    assert {c.name: c.verdict for c in graded.checks} == {
        "passes": results.PASSED,
        "fails": results.FAILED,
        "needs_the_failed_one": results.NOT_CHECKED,
        "needs_the_one_that_was_not_run": results.NOT_CHECKED,
        "meets_trouble": results.COULD_NOT_GRADE,
        "needs_the_ungraded_one": results.COULD_NOT_GRADE,
        "has_a_bug_of_its_own": results.COULD_NOT_GRADE,
    }


def test_a_check_that_was_not_run_names_the_one_to_mend(graded):
    assert "“fails”" in verdict(graded, "needs_the_failed_one").reason
    assert "“fails”" in verdict(graded, "needs_the_one_that_was_not_run").reason


def test_a_finding_comes_with_steps_evidence_and_timeline(graded):
    failed = verdict(graded, "fails")
    assert failed.finding.code == "task-left-pending"
    assert failed.steps == ("Added the pending task T1: “write the weekly report”.",)
    assert "status=pending" in failed.finding.evidence[0].lines[0]
    assert any(row.mark == "broke" for row in failed.timeline)


def test_the_kits_own_failures_are_one_sentence(graded):
    assert verdict(graded, "meets_trouble").reason == "The moon was in the way."
    assert "ZeroDivisionError" in verdict(graded, "has_a_bug_of_its_own").reason
    assert "Traceback" not in verdict(graded, "has_a_bug_of_its_own").reason


def test_could_not_grade_has_the_exit_status(graded):
    assert graded.exit_status == results.EXIT_COULD_NOT_GRADE


def test_points_are_earned_by_what_passed(graded):
    assert graded.earned == 10


def test_marks_lost_and_full_marks_have_their_exit_status():
    names = ("passes", "fails")
    lost = run({name: FAKES[name] for name in names})
    assert lost.exit_status == results.EXIT_MARKS_LOST
    assert run({"passes": FAKES["passes"]}).exit_status == results.EXIT_FULL_MARKS


@pytest.mark.parametrize(("slowest", "factor"), [(0.7, 2.0), (math.inf, 3.0), (0.1, 1.0)])
def test_time_limits_grow_with_how_slow_this_machine_is_and_no_more(monkeypatch, slowest, factor):
    monkeypatch.setattr(GradingSession, "_measure_start", lambda _: 1.05)
    chosen = Options.read(LAB="03", SRC=str(REFERENCE), SERVICES="embedded")
    session = GradingSession("lab03", {"passes": FAKES["passes"]}, chosen, slowest_start=slowest)
    session.start()
    session.result_of("passes")
    session.finish()
    assert session.budgets.factor == pytest.approx(factor)
    assert session.start_seconds == 1.05


def test_a_finding_is_not_believed_when_the_server_has_gone():
    @check("3a", points=1)
    def test_loses_its_server(lab):
        """Its server dies."""
        lab.session.services.postgres.stop()
        raise Finding("task-left-pending", "It is done.", "It is not.")

    declared = test_loses_its_server.declared
    result = run({declared.name: declared})
    assert result.checks[0].verdict == results.COULD_NOT_GRADE
    assert "server" in result.checks[0].reason


@pytest.mark.parametrize(
    ("per_core", "limited", "start", "own", "believed"),
    [(1, False, [99.0], False, True), (MUCH, False, [0.5], False, True),
     (MUCH, False, [99.0], False, False), (MUCH, False, [99.0, 0.5], False, True),
     (MUCH, False, [99.0], True, True), (MUCH, False, [None], False, True),
     (1, True, [99.0], False, False)],
)
def test_a_finding_on_a_machine_that_is_too_busy_is_not_believed(
    monkeypatch, per_core, limited, start, own, believed
):
    """Somebody else's processes may be what has kept a right worker from its time limit."""

    taken = itertools.cycle(start)

    def measured(_, bound):
        now = next(taken)
        if now is None:
            raise CouldNotGrade("The kit's own Python has a fault.")
        return min(now, bound)

    @check("3a", points=1)
    def test_finds_something(lab):
        """It is found while the machine is busy."""
        monkeypatch.setattr(GradingSession, "_measure_start", measured)
        monkeypatch.setattr(overload, "is_own_load", lambda _: own)
        monkeypatch.setattr(overload, "running", lambda: per_core * settings.cores())
        monkeypatch.setattr(settings, "is_limited", lambda: limited)
        raise Finding("task-left-pending", "It is done.", "It is not.")

    declared = test_finds_something.declared
    result = run({declared.name: declared}).checks[0]
    assert result.verdict == (results.FAILED if believed else results.COULD_NOT_GRADE)
    assert believed or "too busy" in result.reason


def test_the_load_of_the_submission_is_its_own(monkeypatch):
    spins = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    found = []

    @check("3a", points=1)
    def test_looks(lab):
        """It looks whose the load is."""
        grading = lab.session
        monkeypatch.setattr(overload, "running", lambda: 16.0)
        found.append(is_own_load(grading.keeper.pid))
        process = Process.start(grading.keeper, grading.loop, History(), "hog",
                                [sys.executable, "-c", spins], dict(os.environ), ROOT, Caps())
        assert poll(lambda: len(process.living()) == 8, 30)
        monkeypatch.setattr(overload, "running", lambda: 4.0)
        found.append(bool(poll(lambda: is_own_load(grading.keeper.pid), 30)))
        monkeypatch.setattr(overload, "running", lambda: 60.0)
        found.append(is_own_load(grading.keeper.pid))
        process.close()

    declared = test_looks.declared
    assert run({declared.name: declared}).checks[0].verdict == results.PASSED
    assert found == [False, True, False]


def test_how_many_processes_want_to_run(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (7.5, 0, 0))
    told = [b"0.1 0.2 0.3 99/300 1\n", b"0.1 0.2 0.3 2/300 1\n", b"", b"nonsense"]
    monkeypatch.setattr(overload.keeper_program, "read_proc", lambda _: told.pop(0))
    assert [overload.running() for _ in range(4)] == [99, 7.5, 7.5, 0.0]


# The whole command, as a student runs it


def grade(*, timeout=120, **env) -> subprocess.CompletedProcess:
    """`cli grade` with these variables, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "graders.harness.cli", "grade"],
        cwd=ROOT,
        env={**os.environ, "LAB": "03", "SERVICES": "embedded", **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def broken(tmp_path: Path, procfile: str | None, program: str = "") -> str:
    """A folder with this Procfile and program, its name with spaces; its path."""
    folder = tmp_path / "a student's work"
    folder.mkdir()
    if procfile is not None:
        (folder / "Procfile").write_text(procfile)
    (folder / "w.py").write_text(program)
    return str(folder)


@pytest.mark.parametrize(
    ("procfile", "program", "code"),
    [
        (None, "", "submission-unusable"),
        ("worker python w.py\n", "", "submission-unusable"),
        ("api: python w.py\n", "", "submission-unusable"),
        ("worker: no-such-program\n", "", "command-not-found"),
        ("build: python -c 'raise SystemExit(3)'\nworker: python w.py\n", "", "build-failed"),
        ("worker: python w.py\n", "def x(:\n", "worker-exited"),
        ("worker: python w.py\n", "while True: print('x' * 200)\n", "output-flood"),
        (
            "worker: python w.py\n",
            "import time\nx = b'x' * (700 << 20)\ntime.sleep(60)\n",
            "memory-exhausted",
        ),
        (
            "worker: python w.py\n",
            "import os, time\n"
            "for _ in range(100):\n"
            "    if os.fork() == 0: break\n"
            "time.sleep(60)\n",
            "too-many-processes",
        ),
        (
            "worker: python w.py\n",
            "import os, time\nos.write(1, bytes(range(256)))\ntime.sleep(60)\n",
            "never-connected",
        ),
    ],
    ids=[
        "no Procfile", "bad line", "no worker", "no such program", "build fails", "syntax error",
        "flood", "memory", "forks", "binary and a hang",
    ],
)  # fmt: skip
def test_a_broken_submission_gets_one_finding(tmp_path, procfile, program, code):
    # Only one waits for its time to be over; the kit's own bounds would be as short.
    patience = "0.1" if code == "never-connected" else "1"
    done = grade(SRC=broken(tmp_path, procfile, program), PATIENCE=patience)
    assert done.returncode == results.EXIT_MARKS_LOST, done.stdout + done.stderr
    written = json.loads((ROOT / "reports/lab03/results.json").read_text())
    first = written["checks"][0]
    assert first["finding"]["code"] == code
    assert {c["verdict"] for c in written["checks"][1:]} == {results.NOT_CHECKED}
    assert "graders/harness" not in done.stdout + done.stderr, "no traceback of the kit"


def test_results_that_cannot_be_written_are_told_and_still_shown(tmp_path):
    checks = {"passes": FAKES["passes"]}
    (tmp_path / "taken").write_text("a file where the folder should be")
    options = Options.read(LAB="03", SRC=str(REFERENCE), SERVICES="embedded")
    session = GradingSession("lab03", checks, options, write_to=tmp_path / "taken")
    session.start()
    session.result_of("passes")
    result = session.finish()
    assert result.earned == 10
    assert "could not be written" in result.extra["not_written"]
    assert result.notes[-1] == result.extra["not_written"]


def test_a_folder_that_is_not_there(tmp_path):
    done = grade(SRC=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_check_lists_the_checks():
    done = grade(SRC=str(REFERENCE), CHECK="no_such_check")
    assert done.returncode == 2
    assert "  completes_a_pending_task\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_of_those_that_wait_for_a_place_the_one_that_takes_longest_is_begun_first() -> None:
    begun = []

    def made(name: str, workers: int, *needs: str) -> Check:
        return replace(FAKES["passes"], name=name, workers=workers, needs=needs,
                       run=lambda _: begun.append(name))

    checks = {c.name: c for c in (made("root", 1), made("short", 1, "root"),
                                  made("long", 3, "root"), made("next", 2, "root"),
                                  made("short too", 1, "root"))}
    one_at_a_time = replace(Options.read(LAB="03", SRC=str(REFERENCE)), at_once=1)
    session = GradingSession("lab03", checks, one_at_a_time)
    session.room = lambda _: Opened()
    session._places = Places(1, Bound(1))
    session._schedule()
    for name in checks:
        session.result_of(name)
    assert begun == ["root", "long", "next", "short", "short too"]


def test_one_check_and_what_it_needs():
    done = grade(SRC=str(REFERENCE), CHECK="stops_at_once_when_idle")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((ROOT / "reports/lab03/results.json").read_text())
    assert [c["name"] for c in written["checks"]] == [
        "completes_a_pending_task", "stops_at_once_when_idle",
    ]  # fmt: skip


def test_a_moment_that_there_is_not_is_no_fault_of_the_kit() -> None:
    done = grade(SRC=str(REFERENCE), CHECK="stops_cleanly_at_every_step", STEP="99")
    assert done.returncode == settings.EXIT_USAGE
    assert done.stderr == (
        "There is no STEP=99 in stops_cleanly_at_every_step. To see all moments, put explore for "
        "grade, and leave STEP out.\n"
    )
    assert "fault of the kit" not in done.stdout


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_grader_that_is_stopped_leaves_nothing_behind(tmp_path, signum):
    before = set(Path("/tmp").glob("wl-*"))
    grader = subprocess.Popen(
        [sys.executable, "-m", "graders.harness.cli", "grade"],
        cwd=ROOT,
        env={**os.environ, "LAB": "03", "SERVICES": "embedded", "SRC": str(REFERENCE)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    family = psutil.Process(grader.pid)

    def workers() -> list[psutil.Process]:
        found = []
        for process in family.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may end just now
                if "worker" in process.cmdline()[-1:]:
                    found.append(process)
        return found

    until(workers)
    started = family.children(recursive=True)
    os.kill(grader.pid, signum)
    _, errors = grader.communicate(timeout=60)
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in started))
    until(lambda: not (set(Path("/tmp").glob("wl-*")) - before - others()))
    if signum == signal.SIGINT:
        assert grader.returncode == 130
        assert "Stopped" in errors
        assert "Traceback" not in errors


def others() -> set[Path]:
    """Run folders that a living keeper of somebody else still has."""
    named = set()
    for process in psutil.process_iter(["cmdline", "cwd"]):
        text = " ".join(process.info["cmdline"] or []) + (process.info["cwd"] or "")
        named |= {path for path in Path("/tmp").glob("wl-*") if path.name in text}
    return named


def until(wanted, timeout: float = 120.0) -> None:
    """Wait until it is true; the bound is met only by a failure."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if wanted():
                return
        except psutil.NoSuchProcess:
            pass
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def test_the_same_grader_under_plain_pytest():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "graders/lab03", f"--submission={REFERENCE}",
         "--services=embedded", "--check=works_through_a_backlog", "-v"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 28 deselected" in done.stdout


def test_a_terminal_shows_the_progress_while_it_runs():
    """The line is rewritten in place, and gone in the end."""
    ours, theirs = pty.openpty()
    grader = subprocess.Popen(
        [sys.executable, "-m", "graders.harness.cli", "grade"],
        cwd=ROOT,
        env={**os.environ, "LAB": "03", "SERVICES": "embedded", "SRC": str(REFERENCE),
             "CHECK": "completes_a_pending_task", "TERM": "xterm"},
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says that the other side has gone
            piece = b""
        if not piece:
            break
        said += piece
    os.close(ours)
    assert grader.wait(60) == 0
    progress, report = said.split(b"lab03  ", 1)
    assert b"0 of 1 checks done  now: completes_a_pending_task" in progress
    assert b"checks done" not in report


def test_a_build_that_the_time_limit_ends_is_not_its_authors_fault(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("build: sleep 1000\nworker: python x.py\n")
    session = GradingSession("lab03", {"passes": FAKES["passes"]},
                             Options.read(LAB="03", SRC=str(tmp_path), SERVICES="embedded"))
    session.start()
    try:
        # Once it builds: from then on it is the end of the build that ends the preparation.
        until(lambda: any("sleep" in p.name() for p in psutil.Process().children(True)))
        session.cut_short("The time limit ended it.")
        assert session.result_of("passes").reason == "The time limit ended it."
    finally:
        result = session.finish()
    assert poll(lambda: not any(t.name == "grading" for t in threading.enumerate()), 60)
    for told in (result.checks[0], session.results["passes"]):
        assert (told.verdict, told.reason) == (results.COULD_NOT_GRADE, "The time limit ended it.")


def test_a_room_that_is_opened_while_the_run_is_stopped_is_not_waited_in(tmp_path: Path) -> None:
    session = GradingSession("lab03", {}, Options.read(LAB="03", SRC=str(REFERENCE)))
    room = Opened()

    def opens(_: str) -> object:
        session.cut_short("Stopped.")  # before it is known that there is a room
        return room

    session.room = opens
    waits = replace(FAKES["passes"],
                    run=lambda lab: lab.history.wait_until(lambda _: False, 1000.0))
    session._run(waits)
    assert session.results["passes"].reason == "Stopped."
    assert room.history.closed
