"""The files beside `results.json` in which the timelines of failed checks are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graders.harness.report import json_report, svg, timeline
from graders.harness.results import FAILED, CheckResult, LabResult

PREFIX, SUFFIX = "timeline-", ".svg"


def write(result: LabResult, folder: Path) -> LabResult:
    """Draw the timeline of each failed check into a file; the result that names those files.

    A check of which nothing was seen but the grader's own words has none. Raises OSError when a
    file cannot be written.
    """
    return replace(result, checks=tuple(_drawn(check, folder) for check in result.checks))


def remove_old(result: LabResult, folder: Path) -> None:
    """Remove the drawings of earlier gradings: those that this result does not name."""
    named = {check.drawing for check in result.checks}
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        if path.name not in named:
            path.unlink(missing_ok=True)


def _drawn(check: CheckResult, folder: Path) -> CheckResult:
    if check.verdict != FAILED or not timeline.worth_drawing(check.timeline):
        return check
    name = f"{PREFIX}{check.name}{SUFFIX}"
    title = f"{check.exercise}  {check.name}"
    seen = check.finding.seen if check.finding is not None else ""
    json_report.write_text(folder / name, svg.svg(check.timeline, title, seen))
    return replace(check, drawing=name)
