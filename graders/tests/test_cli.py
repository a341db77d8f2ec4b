"""The commands that need no server: labs, reset, doctor's manners, and how errors are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graders.harness import cli, doctor, reset, settings

STARTER = {"Procfile": "worker: python -m worker\n", "worker/__init__.py": "", "work.py": "x = 1\n"}


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit with one lab and its starter, in a folder of its own."""
    root = tmp_path / "a kit"
    for name, text in {"labs/lab03/lab.toml": 'title = "A lab"\nhours = "3"\nneeds = ["lab02"]\n',
                       "graders/lab03/starter.json": json.dumps(STARTER)}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    write(root / "starter" / "lab03", STARTER)
    monkeypatch.setattr(settings, "ROOT", root)
    monkeypatch.setenv("LAB", "3")
    monkeypatch.delenv("SRC", raising=False)
    return root


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_labs_tells_of_time_and_the_last_score(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["labs"]) == 0
    said = capsys.readouterr().out
    assert "03  A lab" in said
    assert "3 hours · before it: lab 02 · last score: not graded yet" in said
    graded = {
        "earned": 61, "points": 100, "started": "2026-03-01T10:00:00Z", "checks": [
            {"verdict": "passed", "points": 61}, {"verdict": "could-not-grade", "points": 39},
        ],
    }  # fmt: skip
    write(kit / "reports" / "lab03", {
        "results.json": json.dumps({**graded, "earned": 100}),  # of another folder, say
        "score.json": json.dumps(graded),
    })
    cli.main(["labs"])
    said = capsys.readouterr().out
    assert "61 of 100 (39 points could not be graded), 2026-03-01" in said


def test_errors_are_one_sentence_and_status_2(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["nonsense"]) == 2
    assert cli.main([]) == 2
    monkeypatch.setenv("LAB", "77")
    capsys.readouterr()
    for command in ("hint", "reset", "up", "run", "api", "migrate", "tasks", "queue", "psql"):
        assert cli.main([command]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("There is no lab '77'.")
        assert said.out == ""


@pytest.mark.parametrize(
    "command", ["grade", "hint", "reset", "up", "run", "api", "migrate", "tasks", "queue"]
)
def test_a_command_that_is_about_a_lab_asks_which(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.delenv("LAB")
    assert cli.main([command]) == 2
    said = capsys.readouterr()
    assert said.err == "Say which lab, as in LAB=03. The labs are:\n  LAB=03  A lab\n"
    assert said.out == ""


@pytest.mark.parametrize("command", ["psql", "redis-cli"])
def test_a_prompt_of_nothing_says_what_to_start(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for name in ("LAB", "REDIS_HOST", "REDIS_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main([command]) == 2
    what = "PostgreSQL" if command == "psql" else "Redis"
    assert capsys.readouterr().err.startswith(f"No {what} is up. Start one with: make up LAB=0")


def test_a_reader_who_leaves_early_is_no_error() -> None:
    read, write_end = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "graders.harness.cli", "labs"], cwd=settings.ROOT,
        stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_a_command_is_loaded_shows_no_traceback() -> None:
    interrupted = '''
import os, runpy, signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == "graders.harness.settings":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
runpy.run_module("graders.harness.cli", run_name="__main__")
'''
    done = subprocess.run(
        [sys.executable, "-c", interrupted], cwd=settings.ROOT, capture_output=True, text=True,
        timeout=60, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_reset_of_an_untouched_starter_does_nothing(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(kit / "starter" / "lab03", {"worker/__pycache__/x.pyc": "left by a run"})
    assert cli.main(["reset"]) == 0
    assert "nothing to bring back" in capsys.readouterr().out
    assert [p.name for p in (kit / "starter").iterdir()] == ["lab03"]


def test_reset_keeps_the_work_beside_the_starter(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starter = kit / "starter" / "lab03"
    (starter / "work.py").write_text("mine")
    (starter / "notes.txt").write_text("mine too")
    assert cli.main(["reset"]) == 0
    said = capsys.readouterr().out
    assert reset.files_of(starter) == STARTER
    (kept,) = (kit / "starter").glob("lab03.before-reset-*")
    assert (kept / "work.py").read_text() == "mine"
    assert (kept / "notes.txt").read_text() == "mine too"
    assert f"SRC=starter/{kept.name}" in said
    (starter / "Procfile").unlink()  # and again, within the same second
    cli.main(["reset"])
    assert len(list((kit / "starter").glob("lab03.before-reset-*"))) == 2
    assert (kept / "work.py").read_text() == "mine"


def test_reset_brings_a_deleted_starter_back(kit: Path) -> None:
    (kit / "starter" / "lab03").rename(kit / "elsewhere")
    assert cli.main(["reset"]) == 0
    assert reset.files_of(kit / "starter" / "lab03") == STARTER


def test_reset_without_an_original_changes_nothing(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kit / "graders" / "lab03" / "starter.json").write_text("{")
    (kit / "starter" / "lab03" / "work.py").write_text("mine")
    assert cli.main(["reset"]) == 2
    assert "is not here" in capsys.readouterr().err
    assert (kit / "starter" / "lab03" / "work.py").read_text() == "mine"


@pytest.mark.parametrize("lab", settings.labs(), ids=lambda lab: lab.name)
def test_the_original_of_each_starter_is_kept(lab: settings.Lab) -> None:
    assert reset.original_of(lab) == reset.files_of(lab.starter), (
        f"write it anew: python -m graders.harness.reset starter/{lab.name}"
    )


def test_what_doctor_says_fits_the_page() -> None:
    told, do = "12 MB where /" + "x" * 150, "Free some. " * 20
    found = doctor.Found(doctor.BROKEN, "free disk", told, do)
    lines = list(doctor._lines(found))
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("FAIL  free disk ")


def test_doctor_finds_that_grading_works_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main({}) == 0
    said = capsys.readouterr().out
    assert "FAIL" not in said
    assert "PostgreSQL" in said
    assert "Grading works here" in said
