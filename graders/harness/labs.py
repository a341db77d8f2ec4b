"""`make labs`: the labs of this kit, with time, prerequisites and the last score."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from graders.harness import settings
from graders.harness.report.text import emit, wrap
from graders.harness.settings import Lab

WIDTH = 100


def main(env: Mapping[str, str]) -> int:
    """Print the list."""
    lines: list[str] = []
    for lab in settings.labs():
        lines += _entry(lab)
    lines.append("Grade one with: make grade LAB=03")
    emit(lines, sys.stdout, color=False)
    return 0


def last_result(lab: Lab, name: str = "results.json") -> dict[str, Any] | None:
    """What `make grade` wrote last for this lab (see report/json_report.py), or None.

    `score.json` is the last whole grade of the student's own work, in starter/.
    """
    try:
        result = json.loads((lab.reports / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and isinstance(result.get("checks"), list) else None


def _entry(lab: Lab) -> list[str]:
    needed = [f"lab {name.removeprefix('lab')}" for name in lab.needs]
    before = ", ".join(filter(None, [*needed, lab.prerequisites]))
    facts = [f"{lab.hours} hours" if lab.hours else "", f"before it: {before}" if before else "",
             f"last score: {_score(lab)}"]
    told = wrap(" · ".join(filter(None, facts)), WIDTH - 4)
    return [f"{lab.number}  {lab.title}", *(f"    {line}" for line in told), ""]


def _score(lab: Lab) -> str:
    result = last_result(lab, "score.json")
    if result is None:
        return "not graded yet"
    score = f"{result.get('earned', '?')} of {result.get('points', '?')}"
    checks = result["checks"]
    ungraded = sum(c.get("points", 0) for c in checks if c.get("verdict") == "could-not-grade")
    if ungraded:
        score += f" ({ungraded} points could not be graded)"
    return f"{score}, {str(result.get('started', ''))[:10]}"
