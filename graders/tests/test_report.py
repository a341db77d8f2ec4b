"""The reports: terminal, progress, JSON, the table of runs.

WORKER_LABS_GOLDEN=write writes the golden texts anew; read what has changed before you keep it.
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from graders.harness.explore import command
from graders.harness.report import json_report, runs, terminal
from graders.harness.report.progress import Progress
from graders.harness.report.text import clean, cut, emit, pad, width_of, wrap
from graders.harness.results import COULD_NOT_GRADE, FAILED, FindingReport, LabResult
from graders.tests import report_samples as samples

GOLDEN = Path(__file__).with_name("golden")
SAMPLES = ("passing", "failing", "starter", "could_not_grade", "exploring")


def written(result: LabResult, *, color: bool = False, **more: object) -> str:
    out = io.StringIO()
    terminal.write(result, out, color=color, **more)
    return out.getvalue()


def compare(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("WORKER_LABS_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SAMPLES)
def test_the_terminal_reads_as_reviewed(name: str) -> None:
    compare(f"report-{name}", written(getattr(samples, name)()))


def test_the_table_of_moments_reads_as_reviewed() -> None:
    out = io.StringIO()
    emit(command.report(samples.exploring(), {"never_executes_a_task_twice"}), out, color=False)
    compare("moments", out.getvalue())
    assert all(width_of(line) <= 100 for line in out.getvalue().splitlines())


def test_a_table_of_hostile_moments_keeps_to_the_page() -> None:
    out = io.StringIO()
    result = samples.hostile()
    emit(command.report(result, {"finishes_the_task_on_sigterm"}), out, color=False)
    assert all(width_of(line) <= 100 for line in out.getvalue().splitlines())


def test_the_table_of_runs_reads_as_reviewed() -> None:
    out = io.StringIO()
    good = samples.passing()
    runs.write([good] * 17 + [samples.failing()] * 2 + [samples.could_not_grade()], out)
    compare("runs", out.getvalue())


@pytest.mark.parametrize("name", [*SAMPLES, "hostile"])
@pytest.mark.parametrize("width", [100, 80, 60])
@pytest.mark.parametrize("verbose", [False, True])
def test_nothing_is_wider_than_the_page(name: str, width: int, verbose: bool) -> None:
    text = written(getattr(samples, name)(), width=width, verbose=verbose)
    for line in text.splitlines():
        # commands are there to be copied, and never broken
        if "make hint" not in line and "make grade" not in line:
            assert width_of(line) <= width, line


def test_hostile_text_cannot_act_on_the_terminal() -> None:
    text = written(samples.hostile(), verbose=True)
    acting = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert acting <= {"\n", "\u200d"}
    assert "\\x1b[31mred" in text


def test_hostile_text_does_not_fill_the_screen() -> None:
    assert len(written(samples.hostile()).splitlines()) < 640


def test_colour_changes_no_text() -> None:
    for name in (*SAMPLES, "hostile"):
        result = getattr(samples, name)()
        coloured = written(result, color=True)
        assert "\x1b[" in coloured
        bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
        assert [s.rstrip() for s in bare.splitlines()] == written(result).splitlines()


def test_a_stream_that_is_not_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    terminal.write(samples.failing(), out, color=False)
    terminal.write(samples.hostile(), out, color=False)
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert ">>  0.186   *" in text
    # commands are there to be copied, and never broken
    assert max(len(line) for line in text.splitlines() if "make " not in line) <= 100


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("env", "tty", "wanted"), [
    ({}, True, True),
    ({}, False, False),
    ({"NO_COLOR": "1"}, True, False),
    ({"NO_COLOR": ""}, True, True),
    ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
    ({"FORCE_COLOR": "1"}, False, True),
    ({"TERM": "dumb"}, True, False),
])
def test_when_colour_is_wanted(env: dict[str, str], tty: bool, wanted: bool) -> None:
    assert terminal.color_wanted(Terminal() if tty else io.StringIO(), env) is wanted


def test_the_parts_of_a_failure_are_in_order() -> None:
    text = written(samples.failing())
    text = text[text.index("FAIL  3a  finishes"):]
    parts = ["FAIL  3a", "Every deploy", "What was done", "   1. ", "Expected", "Seen", "Finding",
             "The row of T1", "Timeline", ">>", "make hint LAB=03 CHECK=finishes", "Questions",
             "Score", "Next", "make grade LAB=03 CHECK=finishes"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


ONE_FAILED = {"completes_a_pending_task": {"verdict": FAILED, "finding": FindingReport(
    "task-never-executed", "It is.", "It is not.")}}


def test_another_submission_is_named_in_the_command() -> None:
    text = written(samples.lab_result(ONE_FAILED, submission="my work/it's $5"))
    assert """CHECK=completes_a_pending_task SRC='my work/it'"'"'s $$5'""" in text


def test_another_api_is_named_in_the_command() -> None:
    text = written(samples.lab_result(ONE_FAILED, extra={"api": "starter/lab02"}))
    again = "make grade LAB=03 CHECK=completes_a_pending_task API=starter/lab02"
    assert again in text
    assert "API=" not in written(samples.lab_result(ONE_FAILED))


def test_a_result_without_checks_is_no_full_mark() -> None:
    text = written(samples.lab_result(checks=()))
    assert "0 of 0 points" in text
    assert "No check was run." in text


def test_part_of_a_lab_says_so() -> None:
    assert "Only some checks" in written(samples.lab_result(partial=True))


def test_checks_that_share_a_fault_share_its_lines() -> None:
    fault = {"verdict": COULD_NOT_GRADE, "reason": "PostgreSQL has gone."}
    text = written(samples.lab_result({name: fault for _, name, *_ in samples.CHECKS}))
    assert text.count("PostgreSQL has gone.") == 1
    assert "0 of 0 points" in text


def test_what_was_cut_short_is_not_said_to_be_the_kits_fault() -> None:
    fault = {"verdict": COULD_NOT_GRADE, "reason": "It took too long."}
    result = samples.lab_result({name: fault for _, name, *_ in samples.CHECKS})
    assert "not of your worker" in written(result)
    assert "make doctor" in written(result)
    told = " ".join(written(replace(result, extra={"cut_short": "It took too long."})).split())
    assert "not of your worker" not in told
    assert "make doctor" not in told
    assert "did not come to its end, and it is not said here whose fault that is." in told
    assert "Grade it yourself" in told


def test_one_check_for_pytests_own_report() -> None:
    checks = {c.name: c for c in samples.failing().checks}
    lines = terminal.check_lines(checks["finishes_the_task_on_sigterm"], "lab03")
    assert lines[0].startswith("FAIL  3a  finishes_the_task_on_sigterm")
    assert lines[-1].endswith("make hint LAB=03 CHECK=finishes_the_task_on_sigterm")
    assert not any("\x1b" in line for line in lines)
    waiting = terminal.check_lines(checks["claims_nothing_after_sigterm"], "lab03")
    assert waiting == ["Mend “finishes_the_task_on_sigterm” first."]


# --- progress -------------------------------------------------------------------------------------


def test_progress_is_quiet_in_a_pipe() -> None:
    out = io.StringIO()
    progress = Progress(out, 8)
    progress.update(1, 0, ["one"])
    progress.finished(samples.passing().checks[0])
    progress.close()
    assert out.getvalue() == ""


def test_verbose_progress_in_a_pipe_is_a_line_for_each_check() -> None:
    out = io.StringIO()
    progress = Progress(out, 8, verbose=True)
    for check in samples.failing().checks:
        progress.finished(check)
    progress.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 8
    assert "FAIL  finishes_the_task_on_sigterm" in lines[3]
    assert "task-dropped-on-stop" in lines[3]
    assert "\x1b" not in out.getvalue()


def test_progress_on_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    progress = Progress(out)
    progress.update(1, 0, [])
    progress.total = 8
    progress.update(4, 1, ["a_check", "漢字" * 40, "\x1b[2J"])
    progress.close()
    shown = out.getvalue().split("\r\x1b[K")
    assert shown[1] == "1 check done"
    assert shown[2].startswith("[##########..........] 4 of 8 checks done, 1 failed  now: a_check")
    assert all(width_of(line) < 80 for line in shown)
    assert shown[-1] == ""
    assert "\n" not in out.getvalue()


def test_progress_needs_a_terminal_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    Progress(out, 8).update(1, 0, [])
    assert out.getvalue() == ""


# --- JSON -----------------------------------------------------------------------------------------


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_report.schema())


@pytest.mark.parametrize("name", [*SAMPLES, "hostile"])
def test_json_is_what_the_schema_says(name: str, tmp_path: Path) -> None:
    path = json_report.write(getattr(samples, name)(), tmp_path / "new" / "results.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json_report.schema()).validate(told)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_json_holds_all_of_a_failure() -> None:
    told = json_report.to_dict(samples.failing())
    check = next(c for c in told["checks"] if c["name"] == "never_executes_a_task_twice")
    assert check["finding"]["code"] == "task-executed-twice"
    assert check["finding"]["evidence"][0]["lines"]
    assert check["needs"] == ["completes_a_pending_task"]
    assert [row["text"] for row in check["timeline"] if row["mark"] == "broke"] == [
        "executes T1, execution number 2"]
    assert (told["earned"], told["points"], told["exit_status"]) == (16, 38, 1)
    assert [e["earned"] for e in told["exercises"]] == [12, 4]


def test_the_schema_refuses_what_cannot_be() -> None:
    validator = jsonschema.Draft202012Validator(json_report.schema())
    told = json_report.to_dict(samples.passing())
    told["checks"][0]["verdict"] = "failed"
    assert not validator.is_valid(told)
    told = json_report.to_dict(samples.starter())
    told["checks"][0]["earned"] = 6
    assert not validator.is_valid(told)


def test_old_results_stay_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = json_report.write(samples.passing(), tmp_path / "results.json")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        json_report.write(samples.failing(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


# --- the table of runs ----------------------------------------------------------------------------


def test_no_runs_no_table() -> None:
    out = io.StringIO()
    runs.write([], out)
    assert out.getvalue() == ""


def test_the_table_fits_with_hostile_text() -> None:
    checks = tuple(replace(c, name=c.name + "漢" * 60) for c in samples.hostile().checks)
    out = io.StringIO()
    runs.write([replace(samples.hostile(), checks=checks), samples.failing()], out)
    assert max(map(width_of, out.getvalue().splitlines())) <= 100


# --- text -----------------------------------------------------------------------------------------


def test_text_is_measured_as_it_is_shown() -> None:
    assert width_of("漢字") == 4
    assert width_of("e\u0301") == 1
    assert width_of(clean("\t\x07")) == 8
    assert cut("漢字漢字", 5) == "漢字…"
    assert cut("abcdefghij", 5, middle=True) == "ab…ij"
    assert pad("漢字", 6) == "漢字  "
    assert pad("漢字漢", 4) == "漢… "


def test_text_is_wrapped_at_spaces_and_inside_long_words() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("abcdefghij kl", 4) == ["abcd", "efgh", "ij", "kl"]
    assert wrap("漢字漢字", 5) == ["漢字", "漢字"]
    assert wrap("a\r\nb", 5) == ["a", "b"]
    assert wrap("", 5) == [""]
    assert wrap("one two three four five", 9, 2) == ["one two", "three …"]
    assert all(width_of(line) <= 9 for line in wrap("one twothreefourfivesix" * 9, 9, 2))
