"""The report a student reads in the terminal.

First every check in one line; then, for each that failed, what was done, the one expectation that
broke, what was seen, the timeline, and where to get a hint; last the score and what to do next. The
end is what is on the screen when the run is over, so the next thing to do stands there.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TextIO

from graders.harness.report import timeline
from graders.harness.report.progress import Progress
from graders.harness.report.text import Line, clean, cut, emit, pad, unfold, width_of, wrap
from graders.harness.results import (
    COULD_NOT_GRADE,
    FAILED,
    HELD,
    NOT_CHECKED,
    NOT_EXPLORED,
    PASSED,
    CheckResult,
    Evidence,
    LabResult,
    MomentResult,
)

__all__ = ["Progress", "color_wanted", "write"]

MARKS = {PASSED: "pass", FAILED: "FAIL", NOT_CHECKED: " -- ", COULD_NOT_GRADE: "????"}
STYLES = {PASSED: "good", FAILED: "bad", NOT_CHECKED: "dim", COULD_NOT_GRADE: "fault"}

EVIDENCE_LINES = 16  # of one piece of evidence, unless verbose; the end is what matters most
EVIDENCE_HEAD = 4
STEPS_SHOWN = 12
SENTENCE_LINES = 8  # of what was expected, and of what was seen


def color_wanted(out: TextIO, env: Mapping[str, str] = os.environ) -> bool:
    """Whether to write in colour: on a terminal that can, unless NO_COLOR is set (no-color.org)."""
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    return bool(getattr(out, "isatty", lambda: False)()) and env.get("TERM") != "dumb"


def write(
    result: LabResult, out: TextIO, *, color: bool, width: int = 100, verbose: bool = False
) -> None:
    """Write the whole report. verbose: nothing is left out, and each check's seconds are shown."""
    emit(report(result, width=max(60, width), verbose=verbose), out, color=color)


def check_lines(
    check: CheckResult, lab: str, *, width: int = 100, verbose: bool = False
) -> list[str]:
    """One check that did not pass, in plain lines: for pytest's own report."""
    if check.verdict == FAILED:
        lines = _details(check, lab, width, verbose)
    elif check.verdict == COULD_NOT_GRADE:
        lines = _fault_lines([check], width)
    else:
        lines = _plain(check.reason, width)
    return ["".join(text for _, text in line).rstrip() for line in lines]


def report(result: LabResult, *, width: int = 100, verbose: bool = False) -> Iterator[Line]:
    """The lines of the report, in styled parts."""
    yield from _heading(result, width)
    yield from _list(result, width, verbose)
    for check in result.checks:
        if check.verdict == FAILED:
            yield from _failure(check, result, width, verbose)
    faults = [check for check in result.checks if check.verdict == COULD_NOT_GRADE]
    if faults:
        yield from _faults(faults, width, bool(result.extra.get("cut_short")))
    yield [("", "")]
    yield [("dim", "─" * width)]
    yield from _ending(result, width)


# --- the head and the list ------------------------------------------------------------------------


def _heading(result: LabResult, width: int) -> Iterator[Line]:
    yield [("head", cut(clean(f"{result.lab}  {result.title}"), width))]
    servers = ", ".join(f"{_server_name(k)} {v}" for k, v in result.services.items())
    facts = [f"graded: {result.submission}", servers, f"{result.seconds:.1f} s"]
    yield from _plain("  ·  ".join(f for f in facts if f), width, style="dim")
    for note in filter(str.strip, result.notes):
        yield from _plain(note, width, style="dim")


def _server_name(key: str) -> str:
    return timeline.SERVERS.get(key, key)


def _list(result: LabResult, width: int, verbose: bool) -> Iterator[Line]:
    names = max((width_of(clean(c.name)) for c in result.checks), default=10)
    names = min(names, width // 2 - 10)
    exercises = dict(result.exercises)
    for check in result.checks:
        exercises.setdefault(check.exercise, "")
    for exercise, title in exercises.items():
        checks = [c for c in result.checks if c.exercise == exercise]
        if not checks:
            continue
        earned, points = sum(c.earned for c in checks), sum(c.points for c in checks)
        score = f"{earned} of {points}"
        head = pad(clean(f"{exercise}  {title}"), width - len(score))
        yield [("", "")]
        yield [("bold", head), ("bold", score)]
        for check in checks:
            yield from _list_row(check, names, width, verbose)
    yield from _why_not(result.checks, width)


def _list_row(check: CheckResult, names: int, width: int, verbose: bool) -> Iterator[Line]:
    style = STYLES.get(check.verdict, "")
    points = _points(check)
    if verbose:
        points = f"{check.seconds:6.2f} s {points}"
    room = width - 8 - names - 2 - 1 - len(points)
    title = wrap(check.title, room, 3)
    quiet = "dim" if check.verdict == NOT_CHECKED else ""
    yield [("", "  "), (style, MARKS.get(check.verdict, check.verdict)), ("", "  "),
           (quiet, pad(clean(check.name), names) + "  " + pad(title[0], room) + " "),
           (style if check.verdict != PASSED else "", points)]
    for more in title[1:]:
        yield [("", " " * (10 + names)), (quiet, more)]


def _points(check: CheckResult) -> str:
    earned = "?" if check.verdict == COULD_NOT_GRADE else str(check.earned)
    return f"{earned:>2}/{check.points:<2}"


def _why_not(checks: tuple[CheckResult, ...], width: int) -> Iterator[Line]:
    """Why checks were not run: one line for each reason, however many share it."""
    reasons: dict[str, int] = {}
    for check in checks:
        if check.verdict == NOT_CHECKED:
            reason = check.reason or "A check that comes first has failed."
            reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        yield [("", "")]
    for reason, times in reasons.items():
        many = "1 check was" if times == 1 else f"{times} checks were"
        yield from _hanging("   --   ", f"{many} not run. {reason}", width, style="dim")


# --- one failed check -----------------------------------------------------------------------------


def _failure(
    check: CheckResult, result: LabResult, width: int, verbose: bool
) -> Iterator[Line]:
    yield [("", "")]
    yield [("dim", "─" * width)]
    yield from _details(check, result.lab, width, verbose, result.folder)
    if (broken := _first_broken(check)) and not (result.partial and check.coverage.count == 1):
        yield [("", "Replay    "), ("bold", f"{_again(result, check)} STEP={broken.step}")]


def _first_broken(check: CheckResult) -> MomentResult | None:
    moments = check.coverage.moments if check.coverage is not None else ()
    return next((m for m in moments if m.outcome not in (HELD, NOT_EXPLORED)), None)


def _details(
    check: CheckResult, lab: str, width: int, verbose: bool, folder: str = ""
) -> Iterator[Line]:
    score = f"{check.earned} of {check.points} points"
    name = pad(clean(f"{check.exercise}  {check.name}"), width - 6 - len(score))
    yield [("bad", "FAIL  "), ("bold", name), ("bad", score)]
    yield from _hanging("      ", check.title, width)
    for paragraph in unfold(check.why).split("\n"):
        if paragraph:
            yield from _hanging("      ", paragraph, width, style="dim")

    if check.steps:
        yield from _section("What was done", width)
        yield from _steps(check.steps, width, verbose)

    finding = check.finding
    if finding is not None:
        yield [("", "")]
        most = None if verbose else SENTENCE_LINES
        yield from _hanging("Expected  ", finding.expected, width, label="good", most=most)
        yield from _hanging("Seen      ", finding.seen, width, label="bad", style="bold",
                            most=most)
        yield from _hanging("Finding   ", finding.code, width, label="dim", style="dim")
        for evidence in finding.evidence:
            yield from _section(evidence.title, width)
            yield from _evidence(evidence, width, verbose)
    elif check.reason:
        yield [("", "")]
        yield from _hanging("Seen      ", check.reason, width, label="bad", style="bold")

    # Where nothing was run but a file was read, there is nothing but the finding to draw.
    if timeline.worth_drawing(check.timeline):
        yield from _section("Timeline", width)
        yield from timeline.lines(check.timeline, width, None if verbose else timeline.SHOWN_ROWS)
        if check.drawing:
            # never broken: it is there to be copied
            yield [("dim", clean(f"Drawn in {folder}/{check.drawing}"))]

    yield [("", "")]
    yield [("", "Hint      "), ("bold", _make("hint", lab, check))]


def _steps(steps: tuple[str, ...], width: int, verbose: bool) -> Iterator[Line]:
    shown = list(enumerate(steps, 1))
    gap = 0
    if len(shown) > STEPS_SHOWN and not verbose:
        gap = len(shown) - STEPS_SHOWN
        # what was done last is what broke it
        shown = [*shown[:4], *shown[4 + gap :]]
    for i, (number, step) in enumerate(shown):
        if gap and i == 4:
            yield [("dim", f"      … {gap} steps left out; VERBOSE=1 shows all")]
        yield from _hanging(f"  {number:>2}. ", step, width)


def _evidence(evidence: Evidence, width: int, verbose: bool) -> Iterator[Line]:
    lines = evidence.lines
    if not lines:
        yield [("dim", "  | (nothing)")]
        return
    gap = 0
    if len(lines) > EVIDENCE_LINES and not verbose:
        gap = len(lines) - EVIDENCE_LINES
    for i, line in enumerate(lines):
        if gap and EVIDENCE_HEAD <= i < EVIDENCE_HEAD + gap:
            if i == EVIDENCE_HEAD:
                yield [("dim", f"  | … {gap} lines left out; VERBOSE=1 shows all")]
            continue
        for part in wrap(clean(line), width - 4, None if verbose else 4):
            yield [("dim", "  | "), ("", part)]


def _faults(faults: list[CheckResult], width: int, cut_short: bool) -> Iterator[Line]:
    yield [("", "")]
    yield [("dim", "─" * width)]
    yield from _fault_lines(faults, width, cut_short)


def _fault_lines(
    faults: list[CheckResult], width: int, cut_short: bool = False
) -> Iterator[Line]:
    yield [("fault", "????  "), ("bold", "Could not grade")]
    whose = "This is a fault of the kit or of this machine, not of your worker. It costs no points."
    if cut_short or any("keeper process" in check.reason for check in faults):
        whose = ("The grading did not come to its end, and it is not said here whose fault that "
                 "is. It costs no points so far.")
    yield from _plain(whose, width, indent=6)
    reasons: dict[str, list[str]] = {}
    for check in faults:
        reasons.setdefault(check.reason, []).append(check.name)
    for reason, names in reasons.items():
        yield [("", "")]
        yield from _plain(reason or "No reason was recorded.", width, indent=6)
        # a server that goes away takes many checks with it
        yield from _hanging("      in: ", ", ".join(names), width, style="bold")


# --- the end --------------------------------------------------------------------------------------


def _ending(result: LabResult, width: int) -> Iterator[Line]:
    if result.unanswered:
        yield [("bold", "Questions without an answer in ANSWERS.md"), ("dim", "  (no points)")]
        for question in filter(str.strip, result.unanswered):
            yield from _hanging("  - ", question, width)
        yield [("", "")]
    yield from _explored(result, width)
    yield from _score(result, width)
    yield from _next(result, width)


def _explored(result: LabResult, width: int) -> Iterator[Line]:
    """What the explorations covered, and what they had to leave out."""
    covered = [c.coverage for c in result.checks if c.coverage is not None]
    if not covered:
        return
    by_noun: Counter[str] = Counter()
    for each in covered:
        by_noun[each.noun] += each.count
    counts = [f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in by_noun.items()]
    yield from _hanging("Explored  ", ", ".join(counts), width, label="bold")
    if result.partial and len(covered) == 1 and covered[0].count == 1:
        (moment,) = (m for m in covered[0].moments if m.outcome != NOT_EXPLORED)
        yield from _hanging("          ", f"STEP={moment.step}, {moment.scenario}: {moment.words}: "
                            f"{moment.outcome}", width)
    left_out = dict.fromkeys(name for c in covered for name in c.unexplored)
    skipped = [m for c in covered for m in c.moments if m.outcome == NOT_EXPLORED]
    left_out.update(dict.fromkeys(f"STEP={m.step}: {m.told}" for m in skipped))
    for name in left_out:
        yield from _hanging("          not explored: ", clean(name), width, style="dim", most=2)


def _score(result: LabResult, width: int) -> Iterator[Line]:
    open_points = sum(c.points for c in result.checks if c.verdict == COULD_NOT_GRADE)
    gradable = result.points - open_points
    full = result.earned == gradable and not open_points and result.checks
    counts = []
    for verdict, word in ((PASSED, "passed"), (FAILED, "failed"), (NOT_CHECKED, "not run"),
                          (COULD_NOT_GRADE, "could not be graded")):
        n = sum(1 for c in result.checks if c.verdict == verdict)
        if n:
            counts.append(f"{n} {word}")
    checks = "check" if len(result.checks) == 1 else "checks"
    of = ", ".join(counts)
    points = f"{result.earned} of {gradable} points"
    told = f"   {checks}: {of}" if of else ""
    short = 10 + width_of(points + told) <= width
    yield [("bold", "Score     "), ("good" if full else "bold", points),
           ("dim", told if short else "")]
    if not short:
        yield from _plain(told.strip(), width, indent=10, style="dim")
    if open_points:
        yield from _plain(f"Another {open_points} points could not be graded and are not counted.",
                          width, indent=10)
    if result.partial:
        yield from _plain("Only some checks of the lab were asked for.", width, indent=10)


def _next(result: LabResult, width: int) -> Iterator[Line]:
    failed = [c for c in result.checks if c.verdict == FAILED]
    if failed:
        first = failed[0]
        waiting = sum(1 for c in result.checks if c.verdict == NOT_CHECKED)
        text = f"Begin with {first.name}."
        if waiting and len(failed) == 1:
            wait = "The check that was not run waits" if waiting == 1 else (
                f"The {waiting} checks that were not run wait")
            text += f" {wait} for it."
        yield from _hanging("Next      ", text, width, label="bold")
        commands = ((_make("hint", result.lab, first), "a hint"),
                    (_again(result, first), "this check and what it needs"))
        longest = max(width_of(command) for command, _ in commands)
        for command, what in commands:
            if 14 + longest + 3 + width_of(what) <= width:
                yield [("", "            "), ("bold", pad(command, longest)), ("dim", f"   {what}")]
            else:
                # a command is never broken: it is there to be copied
                yield [("", "            "), ("bold", command)]
    elif result.extra.get("cut_short"):
        yield from _hanging("Next      ", "Grade it yourself, to see whether it comes to its end "
                            "there.", width, label="bold")
    elif any(c.verdict == COULD_NOT_GRADE for c in result.checks):
        yield from _hanging("Next      ", "make doctor says what does not work here. Then grade "
                            "again.", width, label="bold")
    elif not result.checks:
        yield from _hanging("Next      ", "No check was run.", width, label="bold")
    elif result.unanswered:
        yield from _hanging("Next      ", "Answer the questions above in ANSWERS.md.", width,
                            label="bold")


def _again(result: LabResult, check: CheckResult) -> str:
    """The command that grades the same folder by this check, beside the same API."""
    lab = result.lab
    command = _make("grade", lab, check)
    if result.submission.rstrip("/") not in ("", f"starter/{lab}", f"./starter/{lab}"):
        command += _variable("SRC", result.submission)
    if api := result.extra.get("api"):
        command += _variable("API", api)
    return command


def _make(target: str, lab: str, check: CheckResult) -> str:
    return f"make {target} LAB={lab.removeprefix('lab')} CHECK={check.name}"


def _variable(name: str, value: str) -> str:
    # make takes $$ for a dollar sign
    return clean(f" {name}={shlex.quote(value)}".replace("$", "$$"))


# --- small things ---------------------------------------------------------------------------------


def _section(title: str, width: int) -> Iterator[Line]:
    yield [("", "")]
    for line in wrap(title, width, 2):
        yield [("bold", line)]


def _plain(text: str, width: int, *, indent: int = 0, style: str = "") -> Iterator[Line]:
    for line in wrap(text, width - indent):
        yield [("", " " * indent), (style, line)]


def _hanging(label_text: str, text: str, width: int, *, label: str = "", style: str = "",
             most: int | None = None) -> Iterator[Line]:
    """Text after a label, its further lines indented below its first."""
    indent = width_of(label_text)
    for i, line in enumerate(wrap(text, width - indent, most)):
        yield [(label, label_text if i == 0 else " " * indent), (style, line)]
