"""The table of repeated runs (RUNS=20): how often each check passed, and how it failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from graders.harness.report.text import Line, clean, cut, emit, pad, wrap
from graders.harness.results import COULD_NOT_GRADE, FAILED, NOT_CHECKED, PASSED, LabResult


def write(
    results: Sequence[LabResult], out: TextIO, *, color: bool = False, width: int = 100
) -> None:
    """Write the table of these runs of one lab. Nothing for no runs."""
    if results:
        emit(table(results, width), out, color=color)


def table(results: Sequence[LabResult], width: int = 100) -> list[Line]:
    """The lines of the table: check, passes, fails, the others, and the findings seen."""
    verdicts: dict[str, Counter[str]] = {}
    findings: dict[str, Counter[str]] = {}
    for result in results:
        for check in result.checks:
            verdicts.setdefault(check.name, Counter())[check.verdict] += 1
            if check.verdict == FAILED and check.finding is not None:
                findings.setdefault(check.name, Counter())[check.finding.code] += 1

    columns = [("passes", PASSED), ("fails", FAILED)]
    for head, verdict in (("not run", NOT_CHECKED), ("not graded", COULD_NOT_GRADE)):
        if any(count[verdict] for count in verdicts.values()):
            columns.append((head, verdict))
    names = min(max([len("check"), *(len(clean(name)) for name in verdicts)]), 44)
    head = pad("check", names) + "".join(f"  {title:>{_wide(title)}}" for title, _ in columns)
    runs = "1 run" if len(results) == 1 else f"{len(results)} runs"
    lines: list[Line] = [
        [("head", cut(clean(f"{results[0].lab}  {results[0].title}"), width - 12)),
         ("dim", f"  {runs}")],
        [("", "")],
        [("bold", head + "  findings")],
    ]
    unsteady = 0
    for name, count in verdicts.items():
        # a check that others keep from running says nothing about itself
        judged = {v for v in (PASSED, FAILED) if count[v]}
        changed = len(judged) > 1
        unsteady += changed
        row = pad(clean(name), names)
        for title, verdict in columns:
            shown = str(count[verdict]) if count[verdict] else "."
            row += f"  {shown:>{_wide(title)}}"
        seen = [f"{n} {code}" for code, n in findings.get(name, Counter()).most_common()]
        if changed:
            seen.insert(0, "not the same every time:")
        style = "bad" if count[FAILED] else ("fault" if count[COULD_NOT_GRADE] else "")
        wrapped = wrap(" ".join([seen[0], ", ".join(seen[1:])]) if changed else ", ".join(seen),
                       width - len(head) - 2)
        lines.append([(style, row), ("", "  " + wrapped[0])])
        lines += [[("", " " * (len(head) + 2) + more)] for more in wrapped[1:]]
    full = sum(1 for r in results if r.checks and r.earned == r.points)
    lines += [[("", "")], [("bold", f"Full marks in {full} of {runs}.")]]
    if unsteady:
        many = "1 check" if unsteady == 1 else f"{unsteady} checks"
        lines += [[("", part)] for part in wrap(
            f"{many} did not end the same every time: the worker's behaviour depends on timing, or "
            "the grader's does. VERBOSE=1 and CHECK=<name> show one run in full.", width)]
    return lines


def _wide(title: str) -> int:
    return max(6, len(title))
