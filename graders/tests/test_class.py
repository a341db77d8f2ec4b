"""A class graded: isolation, going on after a kill, and what is written of it."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from graders.classes import command, lanes, layouts, records, scores, summary
from graders.classes import lane as lanes_lane
from graders.classes.archives import ArchiveError
from graders.classes.lanes import Lane, LaneHangs
from graders.classes.progress import ClassProgress, bar, duration
from graders.classes.records import Record
from graders.classes.runner import Class_, Plan
from graders.classes.scores import Row
from graders.harness import leftovers, settings
from graders.harness.catalog import checks_of
from graders.harness.results import CheckResult, LabResult
from graders.harness.servers.base import poll
from graders.harness.settings import ROOT, SettingError

LAB = settings.lab("03")
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere there are no subreapers, and all names are Unicode")
BOUND = 1800.0  # seconds that only a failure takes, on any machine
DANA = "\u05d3\u05e0\u05d4"


def worker(code: str) -> dict[str, str]:
    """A submission that is one small file of Python."""
    return {"Procfile": "worker: python worker.py\n", "worker.py": code}


HANGS = worker("import time\ntime.sleep(1e6)\n")
SPEAKS_BINARY = worker("import os\nos.write(1, bytes(range(256)) * 50)\n")
FLOODS = worker("import os\nwhile True:\n    os.write(1, b'x' * 65536)\n")
FORKS = worker("import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(1e6)\n")
# Of its own grader only: other tests have graders, too.
KILLS = worker(
    "import os, psutil, signal\n"
    "for each in psutil.Process().parents():\n"
    "    if 'graders.classes.lane' in each.cmdline():\n"
    "        os.kill(each.pid, signal.SIGKILL)\n"
    "        break\n"
)


def hides(seconds: int, code: str) -> dict[str, str]:
    """A submission that leaves a `sleep` of which nothing tells whose it is, and does this then."""
    return worker(
        "import os, psutil, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.execve('/bin/sleep', ['sleep', '{seconds}'], {{}})\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "keeper = psutil.Process().parent()\n"
        "grader = keeper.parent()\n"
        f"if 'graders.classes.lane' in grader.cmdline():\n{code}"
    )


def hidden(seconds: int) -> list[int]:
    """Its programs that are left."""
    return [p.pid for p in psutil.process_iter(["cmdline"])
            if p.info["cmdline"] == ["sleep", str(seconds)]]


# Its own keeper last: that one takes it along.
KILLS_ALL = """
    others = [each for each in grader.children() if each != keeper]
    for send in (signal.SIGSTOP, signal.SIGKILL):
        for each in [grader, *others, keeper]:
            each.send_signal(send)
"""
STOPS = "    grader.suspend()\n"
KILLS_ITS_KEEPER = worker("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")


def lay(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pack(archive: Path, files: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return archive


def pack_folder(archive: Path, folder: Path) -> Path:
    return pack(archive, {p.relative_to(folder).as_posix(): p.read_bytes()
                          for p in sorted(folder.rglob("*")) if p.is_file()})


@pytest.fixture
def class_of_12(tmp_path: Path) -> Path:
    """Twelve students with every sort of trouble."""
    source = tmp_path / "the class's submissions"
    source.mkdir()
    shutil.copytree(ROOT / "solutions" / "lab03", source / "Anna Reference")
    pack_folder(source / "Bert Starter.zip", ROOT / "starter" / "lab03")
    pack(source / "Çelik Ünal.zip", SPEAKS_BINARY)
    lay(source / DANA, HANGS)
    lay(source / "Emil Flood", FLOODS)
    lay(source / "Fritz Fork", FORKS)
    (source / "Gerda.zip").write_bytes(b"PK\x03\x04 and then nothing")
    pack(source / "Hans.zip", {"../../outside": "x", **HANGS})
    pack(source / "Ida Bomb.zip", {"Procfile": "worker: x\n", "zeros": b"\0" * (300 << 20)})
    lay(source / "Jan", {"readme.txt": "I had no time."})
    lay(source / "Kira", KILLS)
    lay(source / "=Lars", {"Procfile": "this is no Procfile\n", "ANSWERS.md": "# nothing"})
    return source


def started(source: Path, out: Path, *, new_session: bool = True, **env: str) -> subprocess.Popen:
    """`make grade-all`, without make."""
    ours = {"DIR", "OUT", "JOBS", "LIMIT", "AGAIN", "LOOK", "SRC", "CHECK", "LAB"}
    return subprocess.Popen(
        [sys.executable, "-m", "graders.harness.cli", "grade-all"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        start_new_session=new_session,
        env={**{k: v for k, v in os.environ.items() if k not in ours}, "LAB": "03",
             "DIR": str(source), "OUT": str(out), "SERVICES": "embedded", **env},
    )


def graded(source: Path, out: Path, **env: str) -> tuple[int, str, str]:
    done = started(source, out, **env)
    try:
        said, errors = done.communicate(timeout=BOUND)
    finally:
        done.kill()
    return done.returncode, said, errors


def table(out: Path) -> dict[str, dict[str, str]]:
    """scores.csv by student, without what differs from run to run."""
    text = (out / scores.NAME).read_text(encoding="utf-8-sig")
    rows = {}
    for row in csv.DictReader(io.StringIO(text)):
        del row["minutes"]
        rows[row["student"]] = row
    return rows


def below(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def words_of(processes: list[psutil.Process]) -> set[str]:
    """The words of their command lines, of those that have not ended."""
    words: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            words.update(process.cmdline())
    return words


def expect_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=BOUND)
    assert alive == []


# The whole command


@pytest.mark.proof
def test_a_class_of_twelve_killed_and_resumed_has_the_same_table(
    class_of_12: Path, tmp_path: Path
) -> None:
    status, said, errors = graded(class_of_12, tmp_path / "whole")
    whole = table(tmp_path / "whole")
    assert status == 2, errors
    assert errors == ""
    assert len(whole) == 12
    assert {s: (r["state"], r["points"], r["findings"]) for s, r in whole.items()} == {
        "Anna-Reference": ("graded", "100", ""),
        "Bert-Starter": ("graded", "0", "worker-exited"),
        "Çelik-Ünal": ("graded", "0", "worker-exited"),
        DANA: ("graded", "0", "never-connected"),
        "Emil-Flood": ("graded", "0", "output-flood"),
        "Fritz-Fork": ("graded", "0", "too-many-processes"),
        "Gerda": ("not graded", "", ""),
        "Hans": ("not graded", "", ""),
        "Ida-Bomb": ("not graded", "", ""),
        "Jan": ("graded", "0", "submission-unusable"),
        "Kira": ("not graded", "", ""),
        "Lars": ("graded", "0", "submission-unusable"),
    }
    assert "grader was ended 2 times" in whole["Kira"]["remarks"]
    assert whole["Lars"]["name"] == "'=Lars"
    assert not (tmp_path / "outside").exists()
    assert not (class_of_12.parent / "outside").exists()
    for student in whole:
        text = (tmp_path / "whole" / "students" / student / "feedback.txt").read_text()
        assert max(map(len, text.splitlines())) <= 100
        assert str(tmp_path) not in text
    assert (tmp_path / "whole" / "answers" / "index.html").is_file()
    assert "Kira" in (tmp_path / "whole" / summary.NAME).read_text()

    # Killed when three are done: nothing of it goes on, and what was done is not done again.
    run = started(class_of_12, tmp_path / "twice")
    lines = [run.stdout.readline()]
    while not lines[-1].lstrip().startswith("3/12"):
        lines.append(run.stdout.readline())
        assert lines[-1], run.stderr.read()
    family = below(run.pid)
    assert "graders.classes.lane" in words_of(family)
    run.kill()
    expect_gone(family)
    run.communicate()
    done = list((tmp_path / "twice").glob("students/*/graded.json"))
    assert 3 <= len(done) < 12
    status, said, errors = graded(class_of_12, tmp_path / "twice")
    assert (status, errors) == (2, "")
    assert said.count("as before") + said.count("not graded: ") >= 3
    assert table(tmp_path / "twice") == whole


def test_ctrl_c_stops_it_in_order_and_keeps_what_was_done(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", {"readme.txt": ""})
    lay(source / "bert", {**HANGS, "ANSWERS.md": "mine"})
    run = started(source, out, JOBS="1")
    while "1/2  anna" not in (line := run.stdout.readline()):
        assert line, run.stderr.read()
    begun = out / "students" / "bert" / "ANSWERS.md"
    assert poll(lambda: begun.exists() or run.poll() is not None, BOUND)
    assert run.poll() is None
    family = below(run.pid)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=BOUND)
    assert run.returncode == 130
    assert errors.strip().startswith("Stopped after 1 of 2. The same command goes on from here.")
    assert "Traceback" not in errors
    expect_gone(family)
    assert set(table(out)) == {"anna"}
    assert not (out / "students" / "bert" / "graded.json").exists()


def test_only_one_run_at_a_time_grades_into_a_folder(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", {"readme.txt": ""})
    out.mkdir()
    with command._alone(out):
        status, _, errors = graded(source, out)
    assert (status, errors) == (2, f"Another run is grading into {out} now.\n")
    assert graded(source, out)[0] == 0


def test_without_servers_it_stops_with_a_sentence(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", HANGS)
    status, _, errors = graded(
        source, out, SERVICES="external", WORKER_LABS_POSTGRES_URL="postgresql://127.0.0.1:9/x"
    )
    assert status == 2
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("0 of 1 are graded. The same command goes on from here.")
    assert not (out / "students" / "anna" / "graded.json").exists()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "Say which lab"),
        ({"LAB": "03"}, "Say the submissions, as in DIR=submissions."),
        ({"LAB": "03", "DIR": "{here}"}, "Say where the results go, as in OUT=results."),
        ({"LAB": "03", "DIR": "{here}/no", "OUT": "{here}/out"}, "There is no folder or archive"),
        ({"LAB": "03", "DIR": "{here}", "OUT": "{here}/out"}, "lies inside DIR="),
        ({"LAB": "03", "DIR": "{here}/a", "OUT": "{here}/file"}, "is a file; name a folder."),
        ({"LAB": "03", "DIR": "{here}/a", "OUT": "{here}/o", "JOBS": "no"}, "JOBS=no"),
        ({"LAB": "03", "DIR": "{here}/a", "OUT": "{here}/o", "LIMIT": "1"}, "LIMIT=1 is out of"),
        ({"LAB": "03", "DIR": "{here}/a", "OUT": "{here}/o"}, "There are no submissions in"),
        ({"LAB": "03", "DIR": "{here}/c", "OUT": "{here}/o", "AGAIN": "x"}, "AGAIN=x is no stud"),
        ({"LAB": "03", "DIR": "~nobody-of-that-name/c", "OUT": "{here}/o"}, "a user who is not"),
        ({"LAB": "03", "DIR": "{here}/" + 300 * "n", "OUT": "{here}/o"}, "cannot be looked at"),
        ({"LAB": "03", "DIR": "{here}/c", "OUT": "{here}/o", "SEED": "x"}, "SEED=x"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_sentence(
    env: dict[str, str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    lay(tmp_path / "c" / "anna", {"readme.txt": ""})
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"^[A-Z]") as raised:
        command.main({k: v.format(here=tmp_path) for k, v in env.items()})
    assert said in str(raised.value)


# What is graded again, and what is not


@pytest.fixture
def cheap(tmp_path: Path) -> Path:
    """Three who have no Procfile: they are graded in no time."""
    source = tmp_path / "class"
    for name in ("anna", "bert", "chris"):
        lay(source / name, {"readme.txt": f"I am {name}."})
    return source


def run_of(
    source: Path, out: Path, work: Path, lanes: int = 2, **more: object
) -> tuple[dict[str, Record], set]:
    """The records of a run in this process, and whose were kept from an earlier one."""
    work.mkdir()
    plan = Plan(**{"lab": LAB, "source": source, "out": out, "work": work, "kit": "1", "jobs": 1,
                   "limit": 100.0, "services": "embedded", **more})
    kept: set[str] = set()
    run = Class_(plan, layouts.find(source),
                 on_end=lambda record, old: kept.add(record.student) if old else None)
    run.run()
    assert run.trouble == ""
    left = {path.relative_to(work).as_posix() for path in work.rglob("*")}
    logs = {f"lane-0-{number}.log" for number in range(1, lanes + 1)}
    assert left <= {"unpacked", *logs}  # and nothing in it
    return run.records, kept


def test_only_what_has_changed_is_graded_again(cheap: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, kept = run_of(cheap, out, tmp_path / "w1")
    assert (set(first), kept) == ({"anna", "bert", "chris"}, set())
    second, kept = run_of(cheap, out, tmp_path / "w2")
    assert (second, kept) == (first, {"anna", "bert", "chris"})
    (cheap / "bert" / "readme.txt").write_text("I am Bert.")
    (cheap / "dora").mkdir()
    _, kept = run_of(cheap, out, tmp_path / "w3")
    assert kept == {"anna", "chris"}
    _, kept = run_of(cheap, out, tmp_path / "w5", kit="2")
    assert kept == set()


def test_what_the_platform_tells_later_is_kept_with_what_was_graded(
    cheap: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_of(cheap, out, tmp_path / "w1")
    late = [replace(entry, late=True, name="Anna A.") if entry.student == "anna" else entry
            for entry in layouts.find(cheap)]
    (tmp_path / "w2").mkdir()
    plan = Plan(lab=LAB, source=cheap, out=out, work=tmp_path / "w2", kit="1", jobs=1, limit=9.0)
    run = Class_(plan, late)
    run.run()
    assert [(r.name, r.late) for r in run.records.values()] == [
        ("Anna A.", True), ("bert", None), ("chris", None)]
    assert records.load(out / "students" / "anna").late is True


class Interrupted(Class_):
    """A run that is stopped by Ctrl-C once it has graded one student."""

    def run(self) -> None:
        entry = self.entries[0]
        graded = replace(record(entry.student, problem="It is empty."), minutes=1.0)
        records.save(graded, self.plan.folder(entry.student))
        self.on_end(graded, False)
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_loses_nothing_of_the_table(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"LAB": "03", "DIR": str(cheap), "OUT": str(tmp_path / "out"), "SERVICES": "embedded"}
    assert command.main(asked) == 0
    before = table(tmp_path / "out")
    assert set(before) == {"anna", "bert", "chris"}
    monkeypatch.setattr(command, "Class_", Interrupted)
    capsys.readouterr()
    assert command.main({**asked, "AGAIN": "all"}) == 130
    said = capsys.readouterr()
    assert "Stopped after 1 of 3. The same command without AGAIN goes on from here." in said.err
    assert "Other points than in the last run: anna not graded, was 0." in said.out
    now = table(tmp_path / "out")
    assert now["anna"]["state"] == "not graded"
    assert {name: now[name] for name in ("bert", "chris")} == {
        name: before[name] for name in ("bert", "chris")}
    # Those who were still to come are graded by the next run, without being asked for again.
    kept = [records.load(tmp_path / "out" / "students" / name) for name in ("anna", "bert")]
    assert [bool(each.submission) for each in kept] == [True, False]
    # Stopped again: they are still in the table, with what is known of them.
    assert command.main(asked) == 130
    assert table(tmp_path / "out") == now


def test_a_look_says_what_would_be_graded_and_grades_nothing(
    cheap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_folder(cheap / "dora.zip", ROOT / "starter" / "lab03")
    for name in ("emil", "fritz"):
        pack(cheap / f"{name}.zip", {"work/Procfile": "worker: x\n", "work/old/Procfile": ""})
    (cheap / "gerda.zip").write_bytes(b"PK\x03\x04 and then nothing")
    (cheap / "bert" / "readme.txt").write_text("I am anna.")
    (cheap / "notes.txt").write_text("")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    asked = {"LAB": "03", "DIR": str(cheap), "LOOK": "1"}
    assert command.main(asked) == 0
    assert command.main({**asked, "OUT": str(cheap)}) == 0  # which is not looked at
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    first, second = said[: len(said) // 2], said[len(said) // 2 :]
    assert first == second
    lines = first.splitlines()
    told = {line.split("  ")[0]: line[34:].strip() for line in lines if line[:1] > " "}
    assert told["anna"] == "anna: there is no Procfile in it"
    assert told["dora"] == "the top of dora.zip"
    assert told["emil"] == told["fritz"].replace("fritz", "emil") == "work/ of emil.zip"
    assert told["gerda"] == "gerda.zip is damaged or cut off and cannot be opened."
    assert "No submissions, and left aside: “notes.txt”." in lines
    assert "The starter as it came: dora." in lines
    assert "The same files: anna, bert." in lines
    assert "The same files: emil, fritz." in lines
    assert " ".join(lines[-2:]) == ("7 submissions, 1 that cannot be opened, 3 without a Procfile. "
                                    "Nothing was graded; without LOOK it is.")
    assert lines.count(" " * 38 + "There are 2 Procfiles; the one in “work” counts.") == 2


def test_results_of_another_lab_are_not_written_over(
    cheap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"LAB": "03", "DIR": str(cheap), "OUT": str(tmp_path / "out"), "SERVICES": "embedded"}
    assert command.main(asked) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(settings.SettingError, match="holds results of lab03; name another folder"):
        command.main({**asked, "LAB": "02"})
    assert before == {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }


def test_a_table_that_is_held_open_stops_nobody(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows by a spreadsheet, while the class is being graded."""
    write, written = scores.write, []

    def held(rows: list[Row], *rest: object) -> Path:
        written.append(len(rows))
        if len(rows) < 3:
            raise PermissionError(13, "Permission denied")
        return write(rows, *rest)

    monkeypatch.setattr(scores, "write", held)
    asked = {"LAB": "03", "DIR": str(cheap), "OUT": str(tmp_path / "out"), "SERVICES": "embedded"}
    assert command.main(asked) == 0
    assert written == [1, 2, 3, 3]
    assert set(table(tmp_path / "out")) == {"anna", "bert", "chris"}


@linux
def test_a_name_in_another_encoding_stops_nobody(cheap: Path, tmp_path: Path) -> None:
    os.rename(os.fsencode(cheap / "bert"), os.fsencode(cheap) + b"/M\xfcller")
    found, _ = run_of(cheap, tmp_path / "out", tmp_path / "w1")
    assert sorted(r.file for r in found.values()) == ["M?ller", "anna", "chris"]
    _, kept = run_of(cheap, tmp_path / "out", tmp_path / "w2")
    assert kept == set(found)


def test_what_the_grader_may_not_read_is_not_its_authors_fault(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(cheap / "dora.zip", {"Procfile": "worker: x\n"})
    closed = {cheap / "anna", cheap / "dora.zip"}
    if os.geteuid() == 0:  # who may read all
        monkeypatch.setattr(os, "access", lambda path, _: Path(path) not in closed)
        opened = Path.open

        def refused(path: Path, *rest: object, **more: object) -> object:
            if path in closed:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *rest, **more)

        monkeypatch.setattr(Path, "open", refused)
    else:
        for path in closed:
            path.chmod(0)
    found, _ = run_of(cheap, tmp_path / "out", tmp_path / "w")
    for path in closed:
        path.chmod(0o755)
    rows = {name: Row.of(each, tmp_path / "out" / "students" / name)
            for name, each in found.items()}
    assert {name for name, row in rows.items() if row.is_open} == {"anna", "dora"}
    assert {rows[name].why_not for name in ("anna", "dora")} == {
        "It cannot be read: Permission denied."}


@pytest.mark.parametrize(("name", "damage"), [
    ("results.json", "{"), ("graded.json", "{"), ("results.json", '{"checks": [{}]}'),
    ("results.json", '{"checks": [{"name": "x", "verdict": "failed", "points": 1, "earned": 0, '
                     '"reason": "", "finding": {"what": "another version"}}]}'),
])
def test_results_that_are_gone_or_broken_are_made_again(
    cheap: Path, tmp_path: Path, name: str, damage: str
) -> None:
    out = tmp_path / "out"
    run_of(cheap, out, tmp_path / "w1")
    (out / "students" / "anna" / name).write_text(damage)
    (out / "students" / "bert" / name).unlink()
    _, kept = run_of(cheap, out, tmp_path / "w2")
    assert kept == {"chris"}


def test_the_time_limit_ends_a_grading_and_keeps_its_verdicts(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    code = "import os, time\nos.write(1, b'here\\n')\ntime.sleep(1e6)\n"
    lay(source / "anna", worker(code))
    found, _ = run_of(source, out, tmp_path / "w", limit=2.0)
    row = Row.of(found["anna"], out / "students" / "anna")
    assert (row.state, row.points, row.possible) == (scores.NOT_GRADED, None, None)
    assert {c["reason"] for c in row.checks} >= {
        "The time limit of this submission (2 s) ended the run before this check ended."
    }
    feedback = (out / "students" / "anna" / "feedback.txt").read_text()
    assert "The time limit of this submission (2 s)" in " ".join(feedback.split())


def could_not_grade(count: int) -> LabResult:
    """A result of three checks, of which so many could not be graded."""
    lab = checks_of(LAB)
    results = [
        CheckResult(name=c.name, exercise=c.exercise, title=c.title, why=c.why, points=c.points,
                    verdict="could-not-grade" if n < count else "passed", needs=())
        for n, c in enumerate(list(lab.values())[:3])
    ]
    return LabResult(
        lab="lab03", title="", submission="x", kit_version="1", services={}, seed=0, started="",
        seconds=1.0, exercises={}, checks=tuple(results), partial=False, unanswered=(), notes=(),
        extra={},
    )


@pytest.mark.parametrize(
    ("open_checks", "limit", "counts"),
    [((2, 1), 60.0, 1), ((2, 3), 60.0, 0), ((2, 2), 60.0, 0), ((2, 0), 0.0, 0), ((0, 1), 60.0, 0)],
)
def test_the_better_of_two_gradings_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_checks: tuple[int, int], limit: float,
    counts: int,
) -> None:
    """Where something could not be graded it is tried once more, as far as time allows."""
    found = [could_not_grade(count) for count in open_checks]
    done = []

    def once(_: object, limit: float) -> LabResult:
        number = len(done)
        (tmp_path / "results.json").write_text(str(number))
        (tmp_path / f"timeline-{number}.svg").write_text("")
        done.append(limit)
        return found[number]

    wrote = []
    monkeypatch.setattr("graders.classes.feedback.write", lambda *told: wrote.append(told[2]))
    lay(tmp_path, {".first/results.json": "of a run that was killed"})
    lane = lanes_lane.Lane(LAB, "embedded")
    monkeypatch.setattr(lane, "_on_servers", once)
    lane.grade(lanes_lane.Order("x", str(tmp_path), (), limit))
    assert wrote == [found[counts]]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "results.json", f"timeline-{counts}.svg"]
    assert (tmp_path / "results.json").read_text() == str(counts)
    again = open_checks[0] and limit
    assert len(done) == (2 if again else 1)
    assert all(0 < each <= limit for each in done[1:])


def test_what_others_slow_for_a_moment_makes_no_time_limit_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds, starts = [], [0.4, 0.3, None, 9.0, 0.5]

    class Measured:
        def __init__(self, *_: object, slowest_start: float, **__: object) -> None:
            bounds.append(slowest_start)
            self.start_seconds = starts[len(bounds) - 1]

        def start(self) -> None:
            """It does not need to."""

        def cut_short(self, because: str) -> None:
            raise AssertionError(because)

        def result_of(self, _: str) -> None:
            """Nobody reads it."""

        def finish(self) -> LabResult:
            return could_not_grade(0)

    monkeypatch.setattr(lanes_lane, "GradingSession", Measured)
    lane = lanes_lane.Lane(LAB, "embedded")
    for _ in starts:
        lane._once(lanes_lane.Order(str(tmp_path), str(tmp_path), (), 60.0), 60.0)
    assert bounds == [math.inf, 0.8, 0.6, 0.6, 0.6]


class Hanging(Lane):
    """A lane that does not answer in time."""

    count = 0

    def grade(self, order: object) -> None:
        Hanging.count += 1
        raise LaneHangs("it did not answer in time")


def test_what_has_used_up_its_time_gets_no_second_one(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graders.classes.runner.Lane", Hanging)
    shutil.rmtree(cheap / "bert")
    (tmp_path / "out" / "students" / "anna").mkdir(parents=True)
    (tmp_path / "out" / "students" / "anna" / "timeline-x.svg").touch()  # of an earlier grading
    found, _ = run_of(cheap, tmp_path / "out", tmp_path / "w")
    assert Hanging.count == 2
    assert {record.problem for record in found.values()} == {
        "Its grader was ended while it ran: it did not answer in time."}
    assert {p.name for p in (tmp_path / "out" / "students" / "anna").iterdir()} == {
        "feedback.txt", "graded.json"}


class Sharing(Lane):
    """Lanes whose first one is at work until it is told that the others have ended."""

    told: ClassVar[dict[int, list[float]]] = {}
    shares = threading.Event()

    def __init__(self, lab: object, services: str, share: float, *_: object) -> None:
        self.told[id(self)] = []
        self.share(share)

    def start(self) -> list[str]:
        return []

    def grade(self, order: lanes_lane.Order) -> None:
        if "anna" in order.to:
            assert self.shares.wait(BOUND)

    def share(self, cores: float) -> None:
        self.told[id(self)].append(cores)
        if cores == 2.0:
            self.shares.set()

    def wait(self) -> None:
        pass


def test_who_is_at_work_last_has_all_cores(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "cores", lambda: 2)
    monkeypatch.setattr("graders.classes.runner.Lane", Sharing)
    found, _ = run_of(cheap, tmp_path / "out", tmp_path / "w", jobs=2)
    assert set(found) == {"anna", "bert", "chris"}
    assert 2.0 in [each[-1] for each in Sharing.told.values()]


def test_a_lane_takes_its_new_share() -> None:
    code = ("from graders.classes import lane; from graders.harness import settings; import sys\n"
            "lane.main(); print(settings.per_core(10), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], input='{"share": 0.3}\n', cwd=ROOT,
                          capture_output=True, text=True, timeout=BOUND)
    assert (done.returncode, done.stderr) == (0, "3\n")


def test_it_goes_on_where_nobody_reads_what_it_says(cheap: Path, tmp_path: Path) -> None:
    run = started(cheap, tmp_path / "out", JOBS="1")
    assert "3 submissions" in run.stdout.readline()
    run.stdout.close()
    assert run.wait(BOUND) == 0
    assert run.stderr.read() == ""
    assert set(table(tmp_path / "out")) == {"anna", "bert", "chris"}
    assert (tmp_path / "out" / summary.NAME).exists()


def test_a_student_may_be_called_as_the_kit_calls_its_folders(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for name in ("aaron", "class", "unpacked", "zora"):
        lay(made / name, {"readme.txt": name})
    pack_folder(made / "lane-0-1.log.zip", made / "zora")
    source, out, work = pack_folder(tmp_path / "all.zip", made), tmp_path / "out", tmp_path / "w"
    entries = layouts.find(source, work / "class", "03")
    assert [entry.student for entry in entries] == [
        "aaron", "class", "lane-0-1.log", "unpacked", "zora"]
    run = Class_(Plan(lab=LAB, source=source, out=out, work=work, kit="1", jobs=2, limit=100.0,
                      services="embedded"), entries)
    run.run()
    assert run.trouble == ""
    assert {r.student: (r.opened, r.problem) for r in run.records.values()} == {
        entry.student: (True, "") for entry in entries}


def test_a_full_disk_is_nobodys_submission(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layouts, "prepare", full)
    (tmp_path / "w").mkdir()
    plan = Plan(lab=LAB, source=cheap, out=tmp_path / "out", work=tmp_path / "w", kit="1", jobs=1,
                limit=100.0)
    run = Class_(plan, layouts.find(cheap))
    run.run()
    assert run.trouble == "The submissions cannot be opened: No space left on device."
    assert run.records == {}


def test_answers_of_an_earlier_submission_do_not_stay(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", {"ANSWERS.md": "mine"})
    run_of(source, out, tmp_path / "w1")
    assert (out / "students" / "anna" / "ANSWERS.md").exists()
    shutil.rmtree(source / "anna")
    (source / "anna.zip").write_bytes(b"PK\x03\x04 and then nothing")
    found, _ = run_of(source, out, tmp_path / "w2")
    assert not found["anna"].opened
    assert not (out / "students" / "anna" / "ANSWERS.md").exists()


@pytest.mark.parametrize("name", ["Procfile", "ANSWERS.md"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", {"Procfile": "no Procfile"})
    (source / "anna" / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(source / "anna" / name)
    else:
        (source / "anna" / name).symlink_to("/dev/zero")
    found, _ = run_of(source, out, tmp_path / "w")
    row = Row.of(found["anna"], out / "students" / "anna")
    assert (row.state, row.findings) == (scores.GRADED, ["submission-unusable"])


def test_servers_of_others_are_used_by_one_lane(tmp_path: Path) -> None:
    lay(tmp_path / "class" / "anna", {"readme.txt": ""})
    asked = {"LAB": "03", "DIR": str(tmp_path / "class"), "OUT": str(tmp_path / "out")}
    assert command._read({**asked, "SERVICES": "external", "JOBS": "4"}).jobs == 1
    assert command._read({**asked, "SERVICES": "embedded", "JOBS": "4"}).jobs == 4


def test_what_is_said_to_other_commands_does_not_reach_lanes(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PORT", "0"), ("DOWN", "up"), ("N", "none"), ("STEP", "?")):
        monkeypatch.setenv(name, value)
    found, _ = run_of(cheap, tmp_path / "out", tmp_path / "w")
    assert {record.problem for record in found.values()} == {""}


def test_whoever_ends_the_keeper_is_not_graded_and_nobody_else_is_harmed(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", KILLS_ITS_KEEPER)
    lay(source / "bert", {"readme.txt": ""})
    found, _ = run_of(source, out, tmp_path / "w")
    anna, bert = (Row.of(found[name], out / "students" / name) for name in ("anna", "bert"))
    assert (anna.state, anna.findings) == (scores.NOT_GRADED, [])
    assert "keeper" in anna.why_not
    assert (bert.state, bert.findings) == (scores.GRADED, ["submission-unusable"])


ENDS_THE_RUN = worker(
    "import psutil, signal\n"
    "for each in psutil.Process().parents():\n"
    "    if 'grade-all' in each.cmdline():\n"
    "        each.kill()\n"
)


def test_whoever_ends_the_run_keeps_nobody_from_being_graded(cheap: Path, tmp_path: Path) -> None:
    """The next run grades it last and alone, and the one after that not any more."""
    out = tmp_path / "out"
    lay(cheap / "anna", ENDS_THE_RUN)
    assert graded(cheap, out, JOBS="2")[0] == -signal.SIGKILL
    code, said, _ = graded(cheap, out, JOBS="2")
    assert code == -signal.SIGKILL
    assert "graded last, one at a time: anna" in said
    code, _, errors = graded(cheap, out, JOBS="2")
    assert (code, errors) == (2, "")
    rows = table(out)
    assert {name: row["state"] for name, row in rows.items()} == {
        "anna": scores.NOT_GRADED, "bert": scores.GRADED, "chris": scores.GRADED}
    assert "killed 2 times while it was graded" in rows["anna"]["remarks"]
    assert "AGAIN=anna tries it once more" in (
        out / "students" / "anna" / "feedback.txt").read_text()
    assert graded(cheap, out)[0] == 2  # it is not tried again by itself …
    assert graded(cheap, out, AGAIN="anna")[0] == -signal.SIGKILL  # … only when asked for


def begun(folder: Path) -> list[str]:
    """What is written of the grading that is under way: how often, and which submission."""
    return (folder / records.BEGUN).read_text().split() if records.is_begun(folder) else ["0", ""]


def test_a_run_that_is_stopped_in_order_blames_nobody(cheap: Path, tmp_path: Path) -> None:
    """Who was under way comes last; who stopped it, or why, is not known."""
    lay(cheap / "anna", HANGS)
    folder = tmp_path / "out" / "students" / "anna"
    for should_it_be_killed in ("1", "2", "2"):
        run = started(cheap, tmp_path / "out", JOBS="1")
        try:
            assert poll(lambda count=should_it_be_killed: begun(folder)[0] == count, BOUND)
        finally:
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=BOUND)
        assert run.returncode == 130
        count, submission = begun(folder)
        assert (count, records.begun(folder, submission)) == ("1", 1)
        assert records.begun(folder, "a new submission") == 0
    assert set(table(tmp_path / "out")) == {"bert", "chris"}  # although they come after her


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the lanes that were ended by force have had."""
    found: list[dict] = []
    settle = leftovers.settle

    def settled(notes: list[dict]) -> None:
        found.extend(notes)
        settle(notes)

    monkeypatch.setattr(leftovers, "settle", settled)
    return found


@linux
def test_whoever_ends_grader_and_keepers_leaves_nothing_behind(
    tmp_path: Path, noted: list[dict]
) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    seconds = 31_000_000 + os.getpid()
    lay(source / "anna", hides(seconds, KILLS_ALL))
    lay(source / "bert", {"readme.txt": ""})
    found, _ = run_of(source, out, tmp_path / "w", lanes=3)
    assert found["anna"].problem == "Its grader was ended 2 times while it ran: it ended."
    assert found["bert"].problem == ""
    keepers = [each["keeper"][0] for each in noted if "keeper" in each]
    folders = [each["folder"] for each in noted if "folder" in each]
    assert len(keepers) >= 4  # of the servers and of the grading, each twice
    assert any("/wl-pg-" in folder for folder in folders)
    assert [folder for folder in folders if Path(folder).exists()] == []
    assert [pid for pid in keepers if psutil.pid_exists(pid)] == []
    assert hidden(seconds) == []


@linux
def test_whoever_stops_the_grader_is_graded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "NUDGE_EVERY", 0.2)
    nudge, stopped, seconds = Lane._nudge, [], 32_000_000 + os.getpid()

    def nudged(lane: Lane) -> None:
        stopped.append(psutil.Process(lane.pid).status() == psutil.STATUS_STOPPED)
        if any(stopped):  # the first ones could come too early to see it
            nudge(lane)

    monkeypatch.setattr(Lane, "_nudge", nudged)
    lay(tmp_path / "class" / "anna", hides(seconds, STOPS))
    found, _ = run_of(tmp_path / "class", tmp_path / "out", tmp_path / "w")
    assert found["anna"].problem == ""
    row = Row.of(found["anna"], tmp_path / "out" / "students" / "anna")
    assert row.findings
    assert any(stopped)
    assert hidden(seconds) == []


@linux
def test_a_grader_that_stays_stopped_has_used_up_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: list[dict]
) -> None:
    # It is given up long before its own limit would end it.
    for name, seconds in (("NUDGE_EVERY", 0.2), ("END_TIME", -50.0), ("GRACE", 1.0)):
        monkeypatch.setattr(lanes, name, seconds)
    monkeypatch.setattr(Lane, "_nudge", lambda _: None)
    seconds = 33_000_000 + os.getpid()
    lay(tmp_path / "class" / "anna", hides(seconds, STOPS))
    found, _ = run_of(tmp_path / "class", tmp_path / "out", tmp_path / "w", limit=60.0)
    assert found["anna"].problem == (
        "Its grader was ended while it ran: it did not answer in time.")
    assert noted
    assert hidden(seconds) == []


def test_a_run_can_be_stopped_by_another_thread(tmp_path: Path) -> None:
    source, out, work = tmp_path / "class", tmp_path / "out", tmp_path / "w"
    lay(source / "anna", HANGS)
    work.mkdir()
    plan = Plan(lab=LAB, source=source, out=out, work=work, kit="1", jobs=1, limit=500.0,
                services="embedded")
    begun = threading.Event()
    run = Class_(plan, layouts.find(source), on_ready=lambda _: begun.set())
    thread = threading.Thread(target=run.run)
    thread.start()
    assert begun.wait(BOUND)
    run.stop()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert run.records == {}
    assert records.load(out / "students" / "anna") is None


# What a submission is


def test_contents_tell_submissions_apart(tmp_path: Path) -> None:
    folder = lay(tmp_path / "a", {"Procfile": "worker: x", "b/c.py": "1"})
    (folder / "link").symlink_to("Procfile")
    os.mkfifo(folder / "pipe")  # must not be waited for
    seen = {records.contents(folder)}
    changes = [
        lambda: (folder / "b" / "c.py").write_text("2"),
        lambda: (folder / "b" / "c.py").rename(folder / "b" / "d.py"),
        lambda: (folder / "Procfile").chmod(0o755),
        lambda: (folder / "empty").touch(),
        lambda: ((folder / "link").unlink(), (folder / "link").symlink_to("b")),
    ]
    for number, change in enumerate(changes, 2):
        change()
        seen.add(records.contents(folder))
        assert len(seen) == number
    before = records.contents(folder)
    lay(folder, {".git/HEAD": "x", "__pycache__/c.pyc": "y", ".venv/bin/python": "z"})
    assert records.contents(folder) == before
    copy = shutil.copytree(folder, tmp_path / "elsewhere", symlinks=True,
                           ignore=shutil.ignore_patterns("pipe"))
    os.mkfifo(copy / "pipe")
    assert records.contents(copy) == before


def test_answers_are_kept_for_marking_and_no_link_is_followed(tmp_path: Path) -> None:
    source, out = tmp_path / "class", tmp_path / "out"
    lay(source / "anna", {"ANSWERS.md": "mine"})
    lay(source / "bert", {"readme.txt": ""})
    (tmp_path / "secret").write_text("secret")
    (source / "bert" / "ANSWERS.md").symlink_to(tmp_path / "secret")
    found, _ = run_of(source, out, tmp_path / "w")
    assert (out / "students" / "anna" / "ANSWERS.md").read_text() == "mine"
    assert found["anna"].answers == ""
    assert not (out / "students" / "bert" / "ANSWERS.md").exists()
    assert found["bert"].answers == "ANSWERS.md is a link, which is not followed."


# What is written


def record(name: str, **more: object) -> Record:
    told = {"student": name, "name": name, "file": f"{name}.zip", "late": None, "submission": "x",
            "kit": "1", "lab": "lab03", "minutes": 0.5, **more}
    return Record(**told)


def check_of(name: str, verdict: str, code: str = "", points: int = 5) -> dict:
    finding = None
    if code:
        finding = {"code": code, "expected": "It does.", "seen": f"{code} *was* seen."}
    return {"name": name, "verdict": verdict, "points": points, "finding": finding,
            "earned": points if verdict == "passed" else 0, "reason": "The disk was full."}


FIRST, SECOND = list(checks_of(LAB))[:2]


def some_rows() -> list[Row]:
    return [
        Row(record("anna"), (check_of(FIRST, "passed"), check_of(SECOND, "passed", points=1))),
        Row(record("bert", late=True), (check_of(FIRST, "failed", "worker-exited"),
                                        check_of(SECOND, "not-checked", points=1))),
        Row(record("chris"), (check_of(FIRST, "failed", "worker-exited"),
                              check_of(SECOND, "could-not-grade", points=1))),
        Row(record("dora", problem="dora.zip is damaged.", opened=False,
                   remarks=("A\nremark.",))),
    ]


def test_what_is_open_is_what_was_no_fault_of_the_author() -> None:
    assert [row.record.name for row in some_rows() if row.is_open] == ["chris"]
    assert Row(record("emil", problem="Its grader was ended 2 times.")).is_open


def test_scores_tell_zero_from_not_graded() -> None:
    text = scores.table(some_rows(), [FIRST, SECOND])
    assert text.startswith("\ufeffstudent,")
    rows = {row["student"]: row for row in csv.DictReader(io.StringIO(text[1:]))}
    told = {n: (r["state"], r["points"], r["of"], r[FIRST], r[SECOND]) for n, r in rows.items()}
    assert told == {
        "anna": ("graded", "6", "6", "5", "1"),
        "bert": ("graded", "0", "6", "0", "-"),
        "chris": ("partly graded", "0", "5", "0", "?"),
        "dora": ("not graded", "", "", "", ""),
    }
    assert rows["bert"]["late"] == "late"
    assert rows["bert"]["findings"] == "worker-exited"
    assert (rows["chris"]["could not grade"], rows["dora"]["could not grade"]) == ("1", "")
    assert rows["dora"]["remarks"] == "dora.zip is damaged. A remark."
    assert rows["chris"]["remarks"] == "The disk was full."
    assert rows["anna"]["minutes"] == "0.5"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "\n@x", "=HYPERLINK(a)"])
def test_no_spreadsheet_takes_a_name_for_a_formula(name: str) -> None:
    assert scores.plain(name).startswith("'")
    assert scores.plain("anna -1") == "anna -1"


def test_the_summary_says_what_fails_and_whom_to_speak_to() -> None:
    text = "\n".join(summary.lines(some_rows(), LAB, checks_of(LAB), "0.1", ["A *remark*."]))
    assert "2 graded, 1 partly graded, 1 not graded." in text
    assert "Median 50, mean 50, from 0 to 100 (of 100). The 1 who could only be graded" in text
    assert f"| {FIRST} | 2 | 0 | 1 | 5 |" in text
    assert "| worker-exited | 2 | The worker ended although nothing had told it to |" in text
    assert f"1. **{checks_of(LAB)[FIRST].title}** ({FIRST}, 2 of 3)" in text
    assert "worker-exited \\*was\\* seen." in text
    assert "- Full marks: anna." in text
    assert f"- No points yet: bert ({FIRST}, worker-exited)." in text
    assert "- Partly graded: chris. The disk was full." in text
    assert "- Not graded: dora. dora.zip is damaged." in text
    assert "- Late: bert." in text
    assert "- A \\*remark\\*." in text


def test_whose_points_have_changed_is_told() -> None:
    before = {row.record.student: row for row in some_rows()}
    now = some_rows()
    assert summary.changed(before, now) == []
    assert summary.changed({}, now) == []
    checks = (check_of(FIRST, "passed"), check_of(SECOND, "failed", points=1))
    now[0], now[3] = (replace(now[n], checks=checks, record=replace(now[n].record, problem=""))
                      for n in (0, 3))
    now[2] = Row(now[2].record, (*now[2].checks[:1], check_of(SECOND, "passed", points=1)))
    told = summary.changed(before, now)
    assert told == ["anna 5, was 6", "chris 1, was 0 of 5", "dora 5, was not graded"]
    text = "\n".join(summary.lines(now, LAB, checks_of(LAB), "0.1", (), told))
    assert text.endswith("## Other points than in the last run\n\n" + "\n".join(
        f"- {each}" for each in told))


def test_the_summary_of_a_class_without_results() -> None:
    rows = [Row(record("dora", problem="dora.zip is damaged."))]
    text = "\n".join(summary.lines(rows, LAB, checks_of(LAB), "0.1"))
    assert "1 not graded." in text
    assert "Points" not in text


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_line_for_each_and_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for out in (io.StringIO(), Terminal()):
        progress = ClassProgress(out, 4, 1, False)
        for row in some_rows():
            progress.begin(row.record.student, row.record.name)
            progress.end(row, row.record.name == "bert")
        progress.close()
        lines = [line.split("\r")[-1].replace("\x1b[K", "") for line in
                 out.getvalue().split("\n")]
        assert [line[:3] for line in lines if line] == ["1/4", "2/4", "3/4", "4/4"]
        assert max(map(len, lines)) <= 100
        assert "as before" in lines[1]
        assert "1 could not be graded" in lines[2]
        assert "not graded: dora.zip is damaged." in lines[3]
        assert ("[" in out.getvalue()) == out.isatty()
        assert ("left" in out.getvalue()) == out.isatty()


def test_two_of_one_name_are_two_in_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = ClassProgress(out, 2, 2, False)
    rows = [Row(replace(record(student, problem="It is empty."), name="Ann Lee"))
            for student in ("ann-lee", "ann-lee-2")]
    for row in rows:
        progress.begin(row.record.student, row.record.name)
    progress.end(rows[1], False)
    progress.close()
    lines = [line.replace("\x1b[K", "") for line in out.getvalue().split("\r")]
    assert any(line.endswith("now: Ann Lee, Ann Lee") for line in lines)
    assert any("1 of 2" in line and line.endswith("now: Ann Lee") for line in lines)


def test_durations_and_bars() -> None:
    assert [duration(s) for s in (0.2, 40, 89, 95, 720, 3900, 7200)] == [
        "1 s", "40 s", "89 s", "2 min", "12 min", "65 min", "2 h 0 min"]
    assert bar(0, 0) == "[....................]"
    assert bar(1, 2) == "[##########..........]"


def test_an_archive_error_of_the_class_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "class.zip").write_bytes(b"no archive")
    with pytest.raises(ArchiveError):
        layouts.find(tmp_path / "class.zip", tmp_path / "w")
    with pytest.raises(SettingError, match="archive"):
        command.main({"LAB": "03", "DIR": str(tmp_path / "class.zip"), "OUT": str(tmp_path / "o")})
