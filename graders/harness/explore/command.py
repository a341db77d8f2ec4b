"""`make explore`: the whole table of each exploration, for lectures and for reading a worker.

Every moment in the order in which the worker comes to it: what STEP= takes, the moment in words,
and what came of it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from graders.harness import results, settings
from graders.harness.catalog import checks_of, grade_folder
from graders.harness.report.terminal import color_wanted
from graders.harness.report.text import Line, clean, cut, emit, pad, wrap
from graders.harness.results import HELD, CheckResult, LabResult, MomentResult

WIDTH = 100
STEP, OUTCOME = 6, 26  # columns


def main(env: Mapping[str, str]) -> int:
    """Explore every moment of a submission (LAB, SRC; CHECK for one exploration)."""
    chosen = settings.read(env)
    lab, folder = chosen.the_lab, chosen.submission
    known = {name: check for name, check in checks_of(lab).items() if check.explores}
    if not known:
        print(f"{lab.name} has no explorations.", file=sys.stderr)
        return settings.EXIT_USAGE
    for name in chosen.checks:
        if name not in known:
            listed = "\n".join(f"  {each}" for each in known)
            print(f"{lab.name} has no exploration “{name}”. There are:\n{listed}", file=sys.stderr)
            return settings.EXIT_USAGE
    wanted = chosen.checks or tuple(known)
    if sys.stdout.isatty():
        print("Exploring; this takes some twenty seconds.", file=sys.stderr)
    result = grade_folder(lab, Path(folder), wanted)
    color = color_wanted(sys.stdout)
    emit(report(result, known), sys.stdout, color=color)
    return result.exit_status


def report(result: LabResult, known: Collection[str]) -> Iterator[Line]:
    """The tables of these checks, in styled parts."""
    yield from _wrapped("head", f"{result.lab}  every moment of {result.submission}")
    for note in result.notes:
        yield from _wrapped("dim", note)
    for check in result.checks:
        if check.name in known:
            yield from _table(check)
        elif check.verdict != results.PASSED:
            yield [("", "")]
            why = check.reason or (check.finding.seen if check.finding else "")
            yield from _wrapped("bad", f"{check.name}: {check.verdict}. {why}")


def _wrapped(style: str, text: str, indent: int = 0) -> Iterator[Line]:
    for line in wrap(clean(text), WIDTH - indent, 4):
        yield [(style, " " * indent + line)]


def _table(check: CheckResult) -> Iterator[Line]:
    yield [("", "")]
    if check.coverage is None:
        yield from _wrapped("bold", f"{check.name}: {check.verdict}. {check.reason}")
        return
    covered = check.coverage
    plural = "" if covered.count == 1 else "s"
    yield [("bold", f"{check.name}: {covered.count} {covered.noun}{plural}, {check.verdict}")]
    if check.reason:
        yield from _wrapped("dim", check.reason)
    scenario = None
    for moment in covered.moments:
        if moment.scenario != scenario:
            scenario = moment.scenario
            yield [("", "")]
            yield from _wrapped("dim", scenario, 2)
        yield from _row(moment)
    for name in covered.unexplored:
        yield from _wrapped("dim", f"not explored: {name}", 2)


def _row(moment: MomentResult) -> Iterator[Line]:
    good = moment.outcome == HELD
    lines = wrap(clean(moment.words), WIDTH - STEP - OUTCOME - 4)
    for number, line in enumerate(lines):
        step = clean(moment.step) if number == 0 else ""
        outcome = cut(clean(moment.outcome), OUTCOME) if number == 0 else ""
        yield [("", f"  {pad(step, STEP)}{pad(line, WIDTH - STEP - OUTCOME - 3)} "),
               ("dim" if good else "bad", outcome)]
    if moment.told:
        for line in wrap(clean(moment.told), WIDTH - STEP - 6):
            yield [("bad", f"  {'':{STEP}}  {line}")]
