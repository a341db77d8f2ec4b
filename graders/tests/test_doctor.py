"""`make test-setup`: the starters are graded as they came, and what that shows of this machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from graders.harness import cli, doctor, results, settings
from graders.harness.reset import original_of
from graders.harness.results import CheckResult, LabResult
from graders.harness.servers import ServerError, Services

LABS = settings.labs()
Grade = Callable[..., LabResult]


def check(name: str, verdict: str, reason: str = "") -> CheckResult:
    return CheckResult(name=name, exercise="3a", title="", why="", points=10, verdict=verdict,
                       reason=reason)  # fmt: skip


def graded(*checks: CheckResult) -> LabResult:
    return LabResult(
        lab="lab03", title="", submission="", kit_version="", services={}, seed=0, started="",
        seconds=1.0, exercises={}, checks=checks,
    )  # fmt: skip


LOST = graded(check("a", results.FAILED), check("b", results.NOT_CHECKED))


@pytest.fixture
def grading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Grade], None]:
    """Puts a function in the place of a grading; there are no servers."""
    monkeypatch.setattr(
        doctor, "standing_servers", lambda *_: contextlib.nullcontext(Services(notes=["Servers."]))
    )
    for name in ("LAB", "SRC", "SERVICES"):
        monkeypatch.delenv(name, raising=False)
    return lambda grade: monkeypatch.setattr(doctor, "grade_folder", grade)


def test_each_lab_is_tried_by_a_copy_of_its_starter_as_it_came(
    grading: Callable[[Grade], None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Path] = {}

    def grade(lab: settings.Lab, folder: Path, standing: Services) -> LabResult:
        there = {p.relative_to(folder).as_posix(): p.read_text("utf-8")
                 for p in folder.rglob("*") if p.is_file()}  # fmt: skip
        assert there == original_of(lab)
        assert not folder.resolve().is_relative_to(settings.ROOT)
        seen[lab.name] = folder
        return LOST

    grading(grade)
    assert cli.main(["test-setup"]) == 0
    assert list(seen) == [lab.name for lab in LABS]
    assert not any(folder.parent.exists() for folder in seen.values())
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Servers."
    assert len(said) == len(LABS) + 3
    assert said[1].startswith(" ok   lab01 ")
    assert said[1].endswith(" s; the starter has 0 of 20 points, as it should")
    assert said[-1] == "Every lab can be graded here."


def test_one_lab_can_be_tried_alone(
    grading: Callable[[Grade], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    grading(lambda lab, folder, standing: LOST)
    monkeypatch.setenv("LAB", "3")
    assert cli.main(["test-setup"]) == 0
    said = capsys.readouterr().out
    assert "lab03" in said
    assert "lab01" not in said
    assert said.endswith("Lab 03 can be graded here.\n")


@pytest.mark.parametrize(("result", "told"), [
    (graded(check("a", results.FAILED),
            check("b", results.COULD_NOT_GRADE, "There is no space left on the disk.")),
     "1 of 2 checks could not be graded, the first of them b: There is no space left on the disk."),
    (graded(check("a", results.PASSED), check("b", results.FAILED)),
     "The untouched starter earned 10 of 20 points and has none to earn; the first are for a."),
    (graded(), "There are no checks."),
])
def test_what_does_not_go_as_it_should_is_told_and_the_other_labs_are_tried(
    grading: Callable[[Grade], None], capsys: pytest.CaptureFixture[str], result: LabResult,
    told: str,
) -> None:  # fmt: skip
    grading(lambda lab, folder, standing: result if lab == LABS[0] else LOST)
    assert cli.main(["test-setup"]) == 2
    said = capsys.readouterr().out
    assert f"FAIL  {LABS[0].name} " in said
    assert told in " ".join(said.split())
    assert f" ok   {LABS[-1].name} " in said
    assert said.endswith("\nNot every lab can be graded here yet; see what make doctor says.\n")
    assert max(map(len, said.splitlines())) <= 100


def test_ctrl_c_is_one_sentence(
    grading: Callable[[Grade], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> LabResult:
        raise KeyboardInterrupt

    before = set(os.listdir(tempfile.gettempdir()))
    grading(stopped)
    assert cli.main(["test-setup"]) == settings.EXIT_STOPPED
    assert capsys.readouterr().err == "\nStopped. Nothing was written.\n"
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not any(name.startswith("wl-setup-") for name in left)


def test_a_missing_server_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise ServerError("No server listens there.")

    monkeypatch.setattr(doctor, "standing_servers", none)
    assert cli.main(["test-setup"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "No lab can be graded here: No server listens there. See what make doctor says.\n"
    )


@pytest.mark.proof
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_this_machine_can_grade(
    lab: settings.Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = settings.ROOT / "reports" / lab.name
    before = {path: path.stat().st_mtime_ns for path in reports.glob("*")}
    monkeypatch.setenv("LAB", lab.number)
    monkeypatch.delenv("SRC", raising=False)
    assert cli.main(["test-setup"]) == 0, capsys.readouterr().out
    assert f"Lab {lab.number} can be graded here." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in reports.glob("*")} == before
